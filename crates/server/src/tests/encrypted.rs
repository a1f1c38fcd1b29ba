//! HTTPS.

use std::{fs, path::Path};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};

use super::*;
use crate::Tls;

/// Writes a new certificate for `localhost` and its key; gives a client that trusts it alone.
fn certify(folder: &Path) -> TlsConnector {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A whole answer, or why there is none.
fn call(client: &TlsConnector, address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let mut stream = client.connect("localhost".try_into().unwrap(), stream).await?;
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    })
}

#[test]
fn a_certificate_encrypts_every_connection_and_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let client = certify(folder.path());
    let tls = Tls::open(&cert, &key).unwrap();
    let limits = Limits { read: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start_with(Script::default(), ServerOptions { tls: Some(tls.clone()), limits, ..options() });
    let body = chat("hi", json!({"stream": true})).to_string();
    let stream = request("POST", "/v1/chat/completions", JSON, body.as_bytes());
    let answer = call(&client, server.address, &stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[DONE]"), "{answer}");

    // What is not TLS, or nothing, ends without an answer.
    for bytes in [&b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"", b"\x16\x03\x01\x02\x00\x01"] {
        let mut plain = server.open(bytes);
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{bytes:?}");
    }

    fs::write(&key, "nonsense").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("key.pem: expected a private key"));
    assert!(call(&client, server.address, &stream).is_ok(), "what cannot be read changes nothing");
    let fresh = certify(folder.path());
    tls.reload().unwrap();
    assert!(call(&fresh, server.address, &stream).is_ok());
    assert!(call(&client, server.address, &stream).is_err(), "the old certificate is gone");
}

#[test]
fn a_certificate_and_a_key_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    certify(folder.path());
    let old = fs::read(&key).unwrap();
    certify(folder.path());
    fs::write(&key, old).unwrap();
    assert!(Tls::open(&cert, &key).unwrap_err().to_string().contains("does not go with"));
    fs::write(&cert, "").unwrap();
    assert!(Tls::open(&cert, &key).unwrap_err().to_string().contains("cert.pem: expected a certificate"));
    assert!(Tls::open(&cert.join("no"), &key).is_err());
}
