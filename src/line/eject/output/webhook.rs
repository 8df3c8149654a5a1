//! Webhook: a signed HTTP POST for each command, in order, tried again with the same id until its time is over.
//!
//! `Beltsight-Id` is the same at every attempt, so that a receiver can know a repeated one. `Beltsight-Signature` is
//! `t=<unix seconds>,v1=<hex>`, where hex is HMAC-SHA256 (RFC 2104) of `<unix seconds>.<body>` with the secret.

use std::{error::Error, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode, Uri, header::CONTENT_TYPE};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{EjectorCommand, Outlet, tls::Tls};

/// One attempt may take this long.
const ANSWER: Duration = Duration::from_secs(2);
/// Pauses between attempts, from the first to the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// A receiver of HTTP requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where requests are posted, `https://…` or `http://…`.
    pub url: String,
    /// Whom we believe, and as whom we come, over `https://`.
    #[serde(default)]
    pub tls: Tls,
    /// File with the secret that signs them.
    pub secret_file: PathBuf,
}

impl Webhook {
    /// Refuses what can't be posted.
    pub(super) fn check(&self) -> Result<(), String> {
        let address = self.url.parse::<Uri>().ok().filter(|url| url.host().is_some());
        if !address.is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https"))) {
            return Err(format!("webhook: {} is not an http:// or https:// address", self.url));
        }
        self.tls.check().map_err(|why| format!("webhook: {why}"))
    }

    /// Reads the secret.
    pub(super) fn secret(&self) -> Result<Vec<u8>, String> {
        let file = self.secret_file.display();
        let secret = std::fs::read(&self.secret_file).map_err(|e| format!("webhook: {file} can't be read: {e}"))?;
        let secret = secret.trim_ascii().to_vec();
        if secret.len() < 16 {
            return Err(format!("webhook: the secret in {file} must have at least 16 characters"));
        }
        Ok(secret)
    }
}

type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The client that posts; it follows no redirects and asks no proxy.
pub(super) fn client(settings: &Webhook) -> Result<Client, String> {
    let tls = settings.tls.config().map_err(|why| format!("webhook: {why}"))?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
}

/// Where requests go, and what signs them.
pub(super) struct WebhookSender {
    pub settings: Webhook,
    pub client: Client,
    pub secret: Vec<u8>,
}

/// Runs until the commands' sender is gone and what was asked of the line is acknowledged.
pub(super) async fn run(hook: WebhookSender, outlet: Outlet, mut commands: mpsc::Receiver<EjectorCommand>) {
    outlet.connected(true); // until an attempt fails: there is no connection to keep
    while outlet.broke(hook.serve(&outlet, &mut commands)).await {}
}

impl WebhookSender {
    async fn serve(&self, outlet: &Outlet, commands: &mut mpsc::Receiver<EjectorCommand>) {
        let closing = CancellationToken::new();
        let deliver_all = async {
            while let Some(command) = commands.recv().await {
                let result = match outlet.message(&command) {
                    Ok(body) => self.deliver(command.give_up.into(), &body).await,
                    Err(why) => Err(why),
                };
                outlet.connected(result.is_ok());
                outlet.report(command.id, result);
            }
            closing.cancel();
        };
        // Side by side: a stop must not wait behind a command that is tried again and again.
        tokio::join!(deliver_all, self.ask_line(outlet.clone(), &closing));
    }

    /// Passes on what is asked of the line until it is acknowledged; returns when nothing is open while `closing`.
    async fn ask_line(&self, mut outlet: Outlet, closing: &CancellationToken) {
        let mut pause = PAUSES[0];
        loop {
            outlet.requests.borrow_and_update();
            let Some((action, upto)) = outlet.open() else {
                pause = PAUSES[0];
                tokio::select! {
                    () = closing.cancelled() => return,
                    changed = outlet.requests.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
            };
            let mut body = json!({ "event": action.name(), "times": upto, "why": outlet.requests.borrow().why });
            if let Some(seconds) = outlet.flush_seconds(action, upto) {
                body["flush_s"] = seconds.into();
            }
            let id = format!("{}-{}-{upto}", outlet.boot, action.name());
            match self.post(&id, &body).await {
                Ok(()) => {
                    outlet.connected(true);
                    outlet.acknowledge(action, upto);
                }
                Err(PostError::Refused(why) | PostError::Again(why)) => {
                    tracing::error!("{} is not acknowledged: {why}", action.name());
                    outlet.connected(false);
                    // A new request is not kept waiting.
                    if let Ok(Err(_)) = timeout(pause, outlet.requests.changed()).await {
                        sleep(pause).await;
                    }
                    pause = (pause * 2).min(PAUSES[1]);
                }
            }
        }
    }

    /// Posts until it is taken, refused, or too late.
    async fn deliver(&self, until: Instant, body: &Value) -> Result<(), String> {
        let id = body["id"].as_str().unwrap_or_default();
        let mut pause = PAUSES[0];
        loop {
            let why = match timeout_at(until, self.post(id, body)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(PostError::Refused(why))) => return Err(why),
                Ok(Err(PostError::Again(why))) => why,
                Err(_) => return Err("no answer in time".into()),
            };
            if Instant::now() + pause >= until {
                return Err(why);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// One attempt.
    async fn post(&self, id: &str, body: &Value) -> Result<(), PostError> {
        let body = body.to_string();
        let seconds = OffsetDateTime::now_utc().unix_timestamp();
        let signature = hmac_sha256(&self.secret, format!("{seconds}.{body}").as_bytes());
        let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.settings.url)
            .header(CONTENT_TYPE, "application/json")
            .header("Beltsight-Id", id)
            .header("Beltsight-Signature", format!("t={seconds},v1={signature}"))
            .body(Full::from(body))
            .map_err(|e| PostError::Refused(e.to_string()))?;
        // The answer's body is never read: its status says all.
        let status = match timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(answer)) => answer.status(),
            Ok(Err(e)) => return Err(PostError::Again(in_full(&e))),
            Err(_) => return Err(PostError::Again("the webhook does not answer".into())),
        };
        if status.is_success() {
            return Ok(());
        }
        let why = format!("the webhook answers {status}");
        let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        Err(if again || status.is_server_error() { PostError::Again(why) } else { PostError::Refused(why) })
    }
}

/// Why one attempt failed.
enum PostError {
    /// Another attempt would meet the same answer.
    Refused(String),
    /// It may go better next time.
    Again(String),
}

/// An error with what led to it: the outermost alone does not say that a certificate was refused.
fn in_full(error: &dyn Error) -> String {
    let (mut said, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        said += &format!(": {error}");
        cause = error.source();
    }
    said
}

/// RFC 2104 over SHA-256.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        line::{
            eject::output::alive::LineAlive,
            eject::output::{LineRequests, OutputSettings, Subject, Target},
        },
        metrics::Metrics,
    };

    /// Takes stops and answers 503 to everything else; its port.
    async fn busy_receiver() -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut part) = (Vec::new(), [0; 1024]);
                while !request.ends_with(b"}") {
                    let read = stream.read(&mut part).await.unwrap();
                    request.extend_from_slice(&part[..read]);
                }
                let stop = String::from_utf8_lossy(&request).contains(r#""event":"stop_line""#);
                let status = if stop { "200 OK" } else { "503 Service Unavailable" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_behind_a_command_that_is_tried_again_and_again() {
        let settings = Webhook {
            url: format!("http://127.0.0.1:{}/", busy_receiver().await),
            tls: Tls::default(),
            secret_file: PathBuf::new(),
        };
        let (asking, requests) = tokio::sync::watch::channel(LineRequests::default());
        let metrics = Metrics::new().unwrap();
        let outlet = Outlet {
            index: 0,
            boot: 0,
            name: "webhook".into(),
            output: OutputSettings::Webhook(settings.clone()),
            requests,
            acknowledged: LineRequests::default(),
            sensed: Vec::new(),
            alive: LineAlive::default(),
            given: Default::default(),
            notify: Arc::new(|_| ()),
            metrics: metrics.clone(),
        };
        let (commands, received) = mpsc::channel(1);
        let hook = WebhookSender { client: client(&settings).unwrap(), settings, secret: vec![7; 16] };
        let running = tokio::spawn(run(hook, outlet, received));
        let due = std::time::Instant::now();
        let target = Target { coil: None, register: None, command: None };
        let subject = Arc::new(Subject::new("out".into(), &verdict(Action::Reject)));
        let command = EjectorCommand {
            id: 1,
            target,
            count: None,
            hold: Duration::ZERO,
            due,
            give_up: due + Duration::from_secs(20),
            subject,
        };
        commands.send(command).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        asking.send_modify(|requests| requests.stop = 1);
        let taken = metrics.eject.line_acknowledged.with_label_values(&["webhook", "stop_line"]);
        while taken.get() == 0 {
            assert!(due.elapsed() < Duration::from_secs(10), "the stop waits behind the command");
            sleep(Duration::from_millis(10)).await;
        }
        running.abort();
    }

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // Test cases 2 and 6.
        assert_eq!(
            hex(hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac_sha256(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
