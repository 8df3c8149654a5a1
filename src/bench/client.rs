//! The load generator: closed loop (so many at once) and open loop (so many per second).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

/// What happened to one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// HTTP status; 0 when no whole answer came.
    pub status: u16,
    /// Why no whole answer came.
    pub failure: Option<String>,
    /// From sending to the whole answer.
    pub took: Duration,
}

/// Outcomes of a run.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// All requests.
    pub all: Vec<Outcome>,
    /// Wall time of the run.
    pub wall: Duration,
}

impl Outcomes {
    /// Sorted times of the requests with `status`.
    pub fn times(&self, status: u16) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.all.iter().filter(|o| o.status == status).map(|o| o.took).collect();
        times.sort();
        times
    }

    /// Successful requests per second.
    pub fn rate(&self) -> f64 {
        self.times(200).len() as f64 / self.wall.as_secs_f64()
    }
}

/// POSTs the pictures in turn to `url`, `concurrency` at once, for `span` or `requests`, whichever ends first.
///
/// # Errors
/// Only when the client can't be made; failed requests are outcomes.
pub async fn closed_loop(
    url: &str,
    pictures: Arc<Vec<Bytes>>,
    concurrency: usize,
    span: Duration,
    requests: usize,
) -> Result<Outcomes> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (client, url, pictures, next) = (client.clone(), url.to_string(), pictures.clone(), next.clone());
        workers.spawn(async move {
            let mut mine = Vec::new();
            while started.elapsed() < span {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= requests {
                    break;
                }
                mine.push(post(&client, &url, pictures[n % pictures.len()].clone()).await);
            }
            mine
        });
    }
    let all = workers.join_all().await.concat();
    Ok(Outcomes { all, wall: started.elapsed() })
}

/// POSTs the pictures at a fixed `rate` per second for `span`, whatever the answers' pace.
///
/// # Errors
/// Only when the client can't be made.
pub async fn open_loop(url: &str, pictures: Arc<Vec<Bytes>>, rate: f64, span: Duration) -> Result<Outcomes> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let started = Instant::now();
    let mut requests = JoinSet::new();
    let mut n = 0;
    while started.elapsed() < span {
        ticks.tick().await;
        let (client, url, picture) = (client.clone(), url.to_string(), pictures[n % pictures.len()].clone());
        requests.spawn(async move { post(&client, &url, picture).await });
        n += 1;
    }
    Ok(Outcomes { all: requests.join_all().await, wall: started.elapsed() })
}

async fn post(client: &reqwest::Client, url: &str, body: Bytes) -> Outcome {
    let sent = Instant::now();
    let answer = async {
        let response = client.post(url).header("content-type", "image/jpeg").body(body).send().await?;
        let status = response.status().as_u16();
        response.bytes().await?;
        Ok::<u16, reqwest::Error>(status)
    };
    let (status, failure) = match answer.await {
        Ok(status) => (status, None),
        Err(e) => (0, Some(format!("{e:?}"))),
    };
    Outcome { status, failure, took: sent.elapsed() }
}
