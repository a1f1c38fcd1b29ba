//! Where the server is: what users type for it, and the connections to it.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use http_body_util::Full;
use hyper::{Uri, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// An open connection is used again for so long: a server that closes it while a request is on its way takes that request with
/// it, and the impatient ones (uvicorn) wait 5 s.
const IDLE: Duration = Duration::from_secs(2);

/// The way to send one request after another.
pub type Connection = http1::SendRequest<Full<Bytes>>;

/// An address as it was typed: `http://HOST:PORT`, with or without `/v1`, `http://` itself may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// What stands before `/v1/completions`: mostly nothing.
    pub prefix: String,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let wrong = |why: &str| format!("expected an address such as http://127.0.0.1:8000, found {text:?}: {why}");
        let uri: Uri = whole.parse().map_err(|error| wrong(&format!("{error}")))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user's name in it is not understood; --api-key gives a key"));
        }
        if uri.query().is_some() {
            return Err(wrong("a query after ? is not understood"));
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
        })
    }
}

impl Address {
    /// `HOST:PORT` for the `Host` header, without a port that goes without saying.
    pub fn host_header(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.tls { "s" } else { "" }, self.host_header(), self.prefix)
    }
}

/// Opens connections and keeps those that can be used again, as clients of aiohttp do.
pub struct Target {
    pub address: Address,
    /// Looked up once, so that no request waits for a name.
    resolved: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// With when each was used last.
    idle: Mutex<VecDeque<(Connection, Instant)>>,
}

impl Target {
    /// Looks the host up. `ca_file` holds certificates, in PEM, that are trusted beside Mozilla's.
    pub async fn resolve(address: Address, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let resolved: Vec<SocketAddr> = tokio::net::lookup_host((address.host.as_str(), address.port))
            .await
            .map_err(|error| anyhow!("{address}: {error}"))?
            .collect();
        if resolved.is_empty() {
            bail!("{address}: the host has no address");
        }
        let tls = match address.tls {
            true => Some((connector(ca_file)?, ServerName::try_from(address.host.clone())?)),
            false => None,
        };
        Ok(Self { address, resolved, tls, idle: Mutex::default() })
    }

    /// A connection that was used before, if one is still open.
    pub fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was used last is the least likely to be closed by now.
        let (connection, _) = std::iter::from_fn(|| idle.pop_back())
            .find(|(connection, used)| !connection.is_closed() && used.elapsed() < IDLE)?;
        Some(connection)
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn keep(&self, connection: Connection) {
        if !connection.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back((connection, Instant::now()));
        }
    }

    /// A new connection.
    pub async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.resolved.as_slice()).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(stream).await,
            Some((connector, name)) => handshake(connector.connect(name.clone(), stream).await?).await,
        }
    }
}

async fn handshake<S>(stream: S) -> io::Result<Connection>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever waits for an answer hears of the error there.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection");
        }
    });
    Ok(sender)
}

fn connector(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let wrong = |error: &dyn fmt::Display| {
            anyhow!("--ca-file {}: expected certificates in PEM, found {error}", path.display())
        };
        let mut certificates = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
            certificates += 1;
        }
        if certificates == 0 {
            return Err(wrong(&"none"));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_typed_in_every_usual_way() {
        for (typed, shown) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
            ("localhost:8000", "http://localhost:8000"),
            ("https://example.org/api/v1", "https://example.org/api"),
            ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ] {
            assert_eq!(typed.parse::<Address>().unwrap().to_string(), shown);
        }
        let address: Address = "https://example.org".parse().unwrap();
        assert_eq!((address.port, address.host_header().as_str()), (443, "example.org"));
    }

    #[test]
    fn addresses_that_cannot_be_called_are_refused() {
        for typed in ["", "ftp://host", "http://", "http://user:secret@host", "http://host/v1?key=3", "http://ho st"] {
            assert!(typed.parse::<Address>().is_err(), "{typed}");
        }
    }
}
