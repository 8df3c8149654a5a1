//! The accept loop: connections, TLS, and how long a slow client is waited for.
//!
//! Invariant: a connection costs at most one place, 64 KiB and [`ConnectionLimits::client_timeout`] of silence. A client
//! that dribbles its handshake or its request's head, keeps an idle connection, or does not read its answer is cut off
//! after that time; one that dribbles a body, after `api.deadline`.

use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Deserialize;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Most bytes of a request's head, and of its body at a time.
const BUFFER: usize = 64 << 10;

/// How often the files of certificate and key are looked at, while clients come.
const LOOK: Duration = Duration::from_secs(2);

/// Certificate and key of HTTPS; read at start, and again when the files change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file: our certificate first, then those that vouch for it.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// Why HTTPS can't be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or holds something else.
    #[error("server.tls: no PEM {what} can be read from {path}: {why}")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's or the parser's words.
        why: String,
    },
    /// Certificate and key can't be used, or not together.
    #[error("server.tls: this certificate and key can't be used: {0}")]
    Pair(#[from] rustls::Error),
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let stamp = self.stamp(); // before the files, so that a change in between is seen
        let current = LoadedKey { key: self.read()?, stamp, looked: Instant::now() };
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(KeyResolver { files: self.clone(), current: Mutex::new(current) }));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let refuse = |what, path: &PathBuf, why: String| TlsError::File { what, path: path.clone(), why };
        let certificates = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| refuse("certificate", &self.certificate, e.to_string()))?;
        if certificates.is_empty() {
            return Err(refuse("certificate", &self.certificate, "there is none in it".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| refuse("key", &self.key, e.to_string()))?;
        Ok(Arc::new(CertifiedKey::from_der(certificates, key, &ring::default_provider())?))
    }

    fn stamp(&self) -> [Option<Stamp>; 2] {
        let one = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len(), file.ino()))
        };
        [one(&self.certificate), one(&self.key)]
    }
}

/// What tells that a file is another one: time, length, inode.
type Stamp = (SystemTime, u64, u64);

/// The pair in use. The next handshake takes up a renewed one; if that can't be used, the log says so once and the pair
/// before it stays in use.
#[derive(Debug)]
struct KeyResolver {
    files: Tls,
    current: Mutex<LoadedKey>,
}

#[derive(Debug)]
struct LoadedKey {
    key: Arc<CertifiedKey>,
    stamp: [Option<Stamp>; 2],
    looked: Instant,
}

impl ResolvesServerCert for KeyResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() > LOOK {
            current.looked = Instant::now();
            let stamp = self.files.stamp();
            if stamp != current.stamp {
                current.stamp = stamp;
                match self.files.read() {
                    Ok(key) => {
                        current.key = key;
                        tracing::info!("server.tls: the renewed certificate is in use");
                    }
                    Err(e) => tracing::error!("{e}; the certificate before it stays in use"),
                }
            }
        }
        Some(current.key.clone())
    }
}

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Most connections at once; more wait in the system's queue until one ends.
    pub connections: usize,
    /// How long a silent client is waited for.
    pub client_timeout: Duration,
}

/// Who is at the other end; in every request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Serves until `stop`, then finishes the requests at hand and returns.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let places = Arc::new(Semaphore::new(all as usize));
    loop {
        let accepted = stop.run_until_cancelled(async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        });
        let (place, stream, address) = match accepted.await {
            None => break,
            Some((place, Ok((stream, address)))) => (place, stream, address),
            Some((_, Err(e))) => {
                // Out of file descriptors, most likely; a client that went away while it waited does not matter.
                if !matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    tracing::error!("no connection can be accepted: {e}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                continue;
            }
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(e) = connection(stream, address, tls, router, limits.client_timeout, &stop).await {
                tracing::debug!("the connection of {address} ended: {e}");
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = places.acquire_many(all).await; // that is: all connections have ended
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    // The kernel ends the connection when what we send is not taken for so long.
    SockRef::from(&stream).set_tcp_user_timeout(Some(patience))?;
    let peer = Peer { address, tls: tls.is_some() };
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        inner.call(request)
    });
    match tls {
        None => Ok(requests(stream, service, patience, stop).await?),
        Some(tls) => {
            let stream = timeout(patience, tls.accept(stream)).await??;
            Ok(requests(stream, service, patience, stop).await?)
        }
    }
}

async fn requests<S, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: S,
    patience: Duration,
    stop: &CancellationToken,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = axum::response::Response, Error = std::convert::Infallible, Future = F>,
    F: Future<Output = Result<axum::response::Response, std::convert::Infallible>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience) // starts again with each answer: it ends idle connections too
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
