//! Certificates from files: at the start, and when what is in the files changes.

use std::{os::unix::fs::symlink, path::Path};

use mini_rust_desk_relay_server::{
    config::{Config, Secret},
    gateway::Gateway,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{
    Kind, TlsGateway,
    client::{Identity, shake_hands},
};
use crate::support::{TOKEN, TestGateway, eventually};

/// What the gateway says when it is to start with `cert` and `key` in its files.
fn start_with(cert: &str, key: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("cert.pem"), cert).expect("a file");
    std::fs::write(dir.path().join("key.pem"), key).expect("a file");
    start(dir.path(), "cert.pem", "key.pem")
}

fn start(dir: &Path, cert: &str, key: &str) -> Result<(), String> {
    let mut config =
        Config { listen: vec!["127.0.0.1:0".parse().expect("an address")], ..Config::default() };
    config.admin.token = Secret::new(TOKEN);
    (config.tls.cert, config.tls.key) = (cert.into(), key.into());
    Gateway::bind(config, dir).map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_bad_pair_stops_the_start_and_says_which_file_and_setting() {
    let (one, other) = (Identity::new(), Identity::new());
    start_with(&one.cert_pem, &one.key_pem).expect("a good pair");
    for (cert, key, words) in [
        ("", &one.key_pem[..], &["tls.cert", "cert.pem", "no certificate"][..]),
        (&one.key_pem, &one.key_pem, &["tls.cert", "cert.pem", "no certificate"]),
        (&one.cert_pem, "nonsense", &["tls.key", "key.pem", "no private key"]),
        (&one.cert_pem, &one.cert_pem, &["tls.key", "key.pem", "no private key"]),
        (&one.cert_pem, &other.key_pem, &["tls.key", "key.pem", "cert.pem", "not that of"]),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &one.key_pem,
            &["tls.cert", "cert.pem", "malformed"],
        ),
    ] {
        let error = start_with(cert, key).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!error.contains("PRIVATE"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    one.write(dir.path());
    let error = start(dir.path(), "cert.pem", "missing.pem").unwrap_err();
    assert!(error.contains("tls.key") && error.contains("missing.pem"), "{error}");
    let error = start(dir.path(), "missing.pem", "key.pem").unwrap_err();
    assert!(error.contains("tls.cert") && error.contains("missing.pem"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_shown_all_the_same() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    start_with(&cert.pem(), &key.serialize_pem()).expect("a warning only");
}

/// As Kubernetes does it: the files are links into a folder that is itself a link.
fn swap(files: &Path, version: &str, identity: &Identity) {
    let folder = files.join(version);
    std::fs::create_dir(&folder).expect("a directory");
    identity.write(&folder);
    let new = files.join("..new");
    symlink(version, &new).expect("a link");
    std::fs::rename(new, files.join("..data")).expect("a link");
}

async fn shown(gateway: &TestGateway, trusted: &Identity) -> Option<TlsStream<TcpStream>> {
    shake_hands(gateway.connect().await, trusted.client()).await.ok()
}

#[tokio::test]
async fn a_swapped_certificate_is_shown_while_relays_go_on() {
    let (old, files) = (Identity::new(), tempfile::tempdir().unwrap());
    swap(files.path(), "..1", &old);
    for name in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(name), files.path().join(name)).unwrap();
    }
    let gateway = TestGateway::start_with(|config| {
        config.tls.cert = files.path().join("cert.pem");
        config.tls.key = files.path().join("key.pem");
    })
    .await;
    let gateway = TlsGateway { gateway, identity: old, files };
    let left = gateway.gateway.metric("relay_tls_certificate_expiry_seconds").await;
    assert!(left > 86_400.0, "{left}");
    let (mut one, mut other, _) = gateway.pair(Kind::Tls, Kind::Wss).await;

    let new = Identity::new();
    swap(gateway.files.path(), "..2", &new);
    eventually("the new one is shown", async || shown(&gateway.gateway, &new).await.is_some())
        .await;
    assert!(shown(&gateway.gateway, &gateway.identity).await.is_none(), "the old one is not");
    gateway.gateway.until_metric("relay_tls_reloads_total{outcome=\"ok\"}", 1.0).await;
    one.send(b"still here").await;
    assert_eq!(other.receive().await.as_deref(), Some(&b"still here"[..]));

    // One that will not do: the key of another.
    let folder = gateway.files.path().join("..3");
    std::fs::create_dir(&folder).unwrap();
    new.write(&folder);
    std::fs::write(folder.join("key.pem"), &gateway.identity.key_pem).unwrap();
    symlink("..3", gateway.files.path().join("..new")).unwrap();
    std::fs::rename(gateway.files.path().join("..new"), gateway.files.path().join("..data"))
        .unwrap();
    gateway.gateway.until_metric("relay_tls_reloads_total{outcome=\"failed\"}", 1.0).await;
    assert!(shown(&gateway.gateway, &new).await.is_some(), "the one before is kept");

    // It is put right.
    let last = Identity::new();
    swap(gateway.files.path(), "..4", &last);
    eventually("the last is shown", async || shown(&gateway.gateway, &last).await.is_some()).await;
    assert_eq!(gateway.gateway.metric("relay_tls_reloads_total{outcome=\"failed\"}").await, 1.0);
    one.finish().await;
    assert_eq!(other.receive().await, None);
}

#[tokio::test]
async fn a_reload_switches_tls_on_changes_it_and_off() {
    let (identity, files) = (Identity::new(), tempfile::tempdir().unwrap());
    identity.write(files.path());
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let gateway = TestGateway::start().await;
    assert!(shown(&gateway, &identity).await.is_none());
    let answer = gateway.reload_with(|c| (c.tls.cert, c.tls.key) = (cert, key)).await;
    assert_eq!(answer.json()["applied"], serde_json::json!(["tls.cert", "tls.key"]));
    let gateway = TlsGateway { gateway, identity, files };
    let (mut one, mut other, _) = gateway.pair(Kind::Tls, Kind::Tcp).await;

    // The same names with other contents: at once, and not with the next look.
    let new = Identity::new();
    new.write(gateway.files.path());
    assert_eq!(gateway.gateway.post("/api/v1/reload").await.status, 200);
    assert!(shown(&gateway.gateway, &new).await.is_some());

    // What will not do is refused as a whole.
    std::fs::write(gateway.files.path().join("key.pem"), &gateway.identity.key_pem).unwrap();
    let refused = gateway.gateway.post("/api/v1/reload").await;
    assert!(refused.status >= 400 && refused.body.contains("tls.key"), "{}", refused.body);
    assert!(shown(&gateway.gateway, &new).await.is_some());

    gateway
        .gateway
        .reload_with(|c| c.tls = mini_rust_desk_relay_server::config::TlsConfig::default())
        .await;
    assert!(shown(&gateway.gateway, &new).await.is_none());
    one.send(b"still here").await;
    assert_eq!(other.receive().await.as_deref(), Some(&b"still here"[..]));
}
