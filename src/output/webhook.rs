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
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Outlet, tls::Tls};

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
            return Err(format!("webhook: {} is no http:// or https:// address", self.url));
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

/// Runs until the commands' sender is gone.
pub(super) async fn run(settings: Webhook, client: Client, secret: Vec<u8>, mut outlet: Outlet) {
    let (mut pause, mut again) = (Duration::ZERO, Instant::now());
    loop {
        let asked = outlet.open();
        tokio::select! {
            biased;
            changed = outlet.asked.changed() => {
                if changed.is_err() {
                    return;
                }
                outlet.asked.borrow_and_update();
                (pause, again) = (Duration::ZERO, Instant::now());
            }
            () = sleep_until(again), if asked.is_some() => {
                let Some((action, upto)) = asked else { continue };
                let body = json!({ "event": action.name(), "times": upto, "why": outlet.asked.borrow().why });
                let id = format!("{}-{}-{upto}", outlet.boot, action.name());
                match post(&client, &settings, &secret, &id, &body).await {
                    Ok(()) => outlet.acknowledge(action, upto),
                    Err(Failed::Refused(why) | Failed::Again(why)) => {
                        tracing::error!("{} is not acknowledged: {why}", action.name());
                        outlet.connected(false);
                    }
                }
                pause = (pause * 2).clamp(PAUSES[0], PAUSES[1]);
                again = Instant::now() + pause;
            }
            command = outlet.commands.recv() => {
                let Some(command) = command else { return };
                let result = match outlet.message(&command) {
                    Ok(body) => deliver(&client, &settings, &secret, command.give_up.into(), &body).await,
                    Err(why) => Err(why),
                };
                outlet.connected(result.is_ok());
                outlet.report(command.id, result);
            }
        }
    }
}

/// Posts until it is taken, refused, or too late.
async fn deliver(
    client: &Client,
    settings: &Webhook,
    secret: &[u8],
    until: Instant,
    body: &Value,
) -> Result<(), String> {
    let id = body["id"].as_str().unwrap_or_default();
    let mut pause = PAUSES[0];
    loop {
        let attempt = tokio::time::timeout_at(until, post(client, settings, secret, id, body)).await;
        let why = match attempt {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Failed::Refused(why))) => return Err(why),
            Ok(Err(Failed::Again(why))) => why,
            Err(_) => return Err("no answer in time".into()),
        };
        if Instant::now() + pause >= until {
            return Err(why);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

enum Failed {
    /// Another attempt would meet the same answer.
    Refused(String),
    /// It may go better next time.
    Again(String),
}

async fn post(client: &Client, settings: &Webhook, secret: &[u8], id: &str, body: &Value) -> Result<(), Failed> {
    let body = body.to_string();
    let seconds = OffsetDateTime::now_utc().unix_timestamp();
    let signature = hmac_sha256(secret, format!("{seconds}.{body}").as_bytes());
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    let request = Request::builder()
        .method(Method::POST)
        .uri(&settings.url)
        .header(CONTENT_TYPE, "application/json")
        .header("Beltsight-Id", id)
        .header("Beltsight-Signature", format!("t={seconds},v1={signature}"))
        .body(Full::from(body))
        .map_err(|e| Failed::Refused(e.to_string()))?;
    // The answer's body is never read: its status says all.
    let status = match timeout(ANSWER, client.request(request)).await {
        Ok(Ok(answer)) => answer.status(),
        Ok(Err(e)) => return Err(Failed::Again(in_full(&e))),
        Err(_) => return Err(Failed::Again("the webhook does not answer".into())),
    };
    if status.is_success() {
        return Ok(());
    }
    let why = format!("the webhook answers {status}");
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    Err(if again || status.is_server_error() { Failed::Again(why) } else { Failed::Refused(why) })
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
mod tests {
    use super::*;

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
