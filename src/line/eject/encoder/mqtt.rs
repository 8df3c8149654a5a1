//! A count on a topic of an MQTT broker.
//!
//! A message is stamped when it comes. One that says when it was sent, by whatever clock, is stamped by that: the two clocks
//! differ by as much as they do for the message that was quickest of late.

use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::{LOOK, PAUSES, pause};
use crate::line::eject::belt::Belt;

/// By how much a message's moment may be wrong, with and without the sender's clock.
const DOUBT: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(20)];
/// Clocks drift apart by at most so much of the time.
const DRIFT: f64 = 2e-4;
/// A message that was on its way for longer says that the sender's clock was set.
const LONGEST: f64 = 1.0;
/// Messages that may wait here.
const QUEUE: usize = 64;

/// What a message may say beside the bare count.
#[derive(Deserialize)]
#[serde(untagged)]
enum CountMessage {
    Count(i64),
    Stamped { count: i64, at: f64 },
}

/// How the sender's clock stands to ours.
#[derive(Debug, Default)]
struct SenderClock {
    /// The newest message's arrival, and by how many seconds our clock, from `begun` on, is ahead of the sender's at least.
    ahead: Option<(f64, f64)>,
}

impl SenderClock {
    /// How long a message of the sender's moment `sent` was on its way when it arrived at our `arrived`, both in seconds.
    fn on_its_way(&mut self, sent: f64, arrived: f64) -> f64 {
        let now = arrived - sent;
        let ahead = match self.ahead {
            Some((then, ahead)) if now - ahead <= LONGEST => now.min(ahead + DRIFT * (arrived - then)),
            _ => now,
        };
        self.ahead = Some((arrived, ahead));
        now - ahead
    }
}

/// Listens for ever.
pub(super) async fn run(topic: String, options: MqttOptions, belt: &Belt) {
    let (mut wait, begun, mut clock) = (Duration::ZERO, Instant::now(), SenderClock::default());
    loop {
        pause(belt, wait).await;
        let (sender, mut events) = mpsc::channel(QUEUE);
        // A task of its own: a client that breaks over what a broker sends takes nothing else with it.
        let poller = tokio::spawn(poll(topic.clone(), options.clone(), sender));
        let why = loop {
            match timeout(LOOK, events.recv()).await {
                Err(_) => belt.look(),
                Ok(None) => break "the client broke".to_owned(),
                Ok(Some(Err(why))) => break why,
                Ok(Some(Ok((payload, arrived)))) => {
                    wait = Duration::ZERO;
                    heard(belt, &payload, arrived, begun, &mut clock);
                }
            }
        };
        poller.abort();
        if wait.is_zero() {
            tracing::warn!("the encoder is not heard: {why}");
        }
        belt.refused("failed", &why);
        wait = (wait * 2).clamp(PAUSES[0], PAUSES[1]);
    }
}

/// Passes every message on, with the moment at which it came, until the connection ends; then why.
async fn poll(topic: String, options: MqttOptions, sender: mpsc::Sender<Result<(Vec<u8>, Instant), String>>) {
    let (client, mut events) = AsyncClient::new(options, QUEUE);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(1).set_tcp_nodelay(true);
    events.set_network_options(network);
    loop {
        let said = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                tracing::info!("the encoder's broker is connected");
                match client.try_subscribe(&topic, QoS::AtMostOnce) {
                    Ok(()) => continue,
                    Err(e) => Err(e.to_string()),
                }
            }
            // A retained message is old.
            Ok(Event::Incoming(Packet::Publish(message))) if !message.retain => {
                Ok((message.payload.to_vec(), Instant::now()))
            }
            Ok(_) => continue,
            Err(e) => Err(e.to_string()),
        };
        let over = said.is_err();
        if sender.send(said).await.is_err() || over {
            return;
        }
    }
}

fn heard(belt: &Belt, payload: &[u8], arrived: Instant, begun: Instant, clock: &mut SenderClock) {
    match serde_json::from_slice(payload) {
        Ok(CountMessage::Count(count)) => belt.counted(count, arrived, DOUBT[1]),
        Ok(CountMessage::Stamped { count, at }) => {
            let way = clock.on_its_way(at, arrived.duration_since(begun).as_secs_f64());
            let way = Duration::try_from_secs_f64(way).unwrap_or_default();
            belt.counted(count, arrived.checked_sub(way).unwrap_or(arrived), DOUBT[0]);
        }
        Err(e) => belt.refused("failed", &format!("a message is no count: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_clock_is_told_from_the_quickest_message_and_may_be_set() {
        let mut clock = SenderClock::default();
        let ms = |seconds: f64| (seconds * 1e3).round() / 1e3;
        // It is 5,000 s behind; messages take 2 to 30 ms.
        let sent = |n: u32| f64::from(n) * 0.02 - 5000.0;
        let mut on_its_way = |n: u32, took: f64| ms(clock.on_its_way(sent(n), f64::from(n) * 0.02 + took));
        assert_eq!(on_its_way(0, 0.012), 0.0);
        assert_eq!(on_its_way(1, 0.002), 0.0);
        assert_eq!(on_its_way(2, 0.03), 0.028);
        assert_eq!(on_its_way(3, 0.002), 0.0);
        assert_eq!(ms(clock.on_its_way(9e9, 1.0)), 0.0, "it was set forwards");
        assert_eq!(ms(clock.on_its_way(9e9 + 0.02, 1.03)), 0.01);
        assert_eq!(ms(clock.on_its_way(5.0, 1.05)), 0.0, "and back");
    }
}
