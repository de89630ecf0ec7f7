//! Keys, from their source to the leg that is refused.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::SigningKey;
use mini_rust_desk_relay_server::{
    config::{Config, Secret},
    gateway::{Gateway, GatewayError},
    wire::{
        Transport::{Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};

use crate::{
    by_hand::{is_refused, opening},
    support::{TestGateway, unique},
};

const RUSTDESK_PUBLIC_KEY: &str = "OeVuKk5nlHiXp+APNn0Y3pC1Iwpwn44JGqrQCsWqmBw=";

fn secret_and_public() -> (String, String) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = BASE64_STANDARD.encode(key.verifying_key().as_bytes());
    (BASE64_STANDARD.encode(key.to_keypair_bytes()), public)
}

async fn with_key(key: &str) -> TestGateway {
    TestGateway::start_with(|config| config.key = Secret::new(key)).await
}

/// The right key pairs, over both transports.
async fn pairs_with(gateway: &TestGateway, key: &str) {
    let uuid = unique("right");
    let hello = request_relay(&uuid, "", key, ConnType::Default);
    let mut first = gateway.leg_with(Tcp, &hello).await;
    gateway.until_waiting(&uuid).await;
    let mut second = gateway.leg_with(WebSocket, &hello).await;
    second.send(b"hello").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"hello"[..]));
}

/// A wrong key is closed, over both transports, with nothing sent: on a WebSocket not even a
/// Close frame. The metric says which mistake it is.
async fn refuses(gateway: &TestGateway, key: &str, fault: &str) {
    let before = gateway.refusals(fault).await;
    let hello = request_relay("wrong", "", key, ConnType::Default);
    for transport in [Tcp, WebSocket] {
        is_refused(gateway, transport, &opening(transport, &hello)).await;
    }
    assert_eq!(gateway.refusals(fault).await, before + 2.0, "{fault}");
}

#[tokio::test]
async fn a_literal_key_is_demanded_and_every_mistake_counted_by_its_name() {
    let (secret, public) = secret_and_public();
    let gateway = with_key(&public).await;
    pairs_with(&gateway, &public).await;
    for (key, fault) in [
        ("", "key_empty"),
        (RUSTDESK_PUBLIC_KEY, "key_public_default"),
        (&public.to_uppercase(), "key_case"),
        (&secret, "key_secret"),
        (&format!(" {public}"), "key_whitespace"),
        (public.trim_end_matches('='), "key_padding"),
        ("something else", "key_unknown"),
        (&public[..public.len() - 2], "key_unknown"),
        (&format!("{public}{public}"), "key_unknown"),
    ] {
        refuses(&gateway, key, fault).await;
    }
    // Nobody who was refused waits.
    assert_eq!(gateway.metric("relay_waiting_legs").await, 0.0);
}

#[tokio::test]
async fn a_secret_key_stands_for_its_public_half() {
    let (secret, public) = secret_and_public();
    let gateway = with_key(&secret).await;
    pairs_with(&gateway, &public).await;
    refuses(&gateway, &secret, "key_secret").await;
}

#[tokio::test]
async fn a_key_pair_is_made_where_it_is_missing_and_read_where_it_is_not() {
    for sign in ["_", "-"] {
        let gateway = with_key(sign).await;
        let public = std::fs::read_to_string(gateway.dir().join("id_ed25519.pub")).unwrap();
        pairs_with(&gateway, &public).await;
        refuses(&gateway, "", "key_empty").await;
        refuses(&gateway, sign, "key_unknown").await;
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            key: Secret::new(sign),
            ..Config::default()
        };
        let again = Gateway::bind(config, gateway.dir()).unwrap();
        assert!(!again.is_open_relay());
        let kept = std::fs::read_to_string(gateway.dir().join("id_ed25519.pub")).unwrap();
        assert_eq!(kept, public);
    }
}

#[tokio::test]
async fn a_key_file_holds_a_key_of_either_kind() {
    let (secret, public) = secret_and_public();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for text in [format!("{public}\n"), format!("{secret}\n"), format!("  {public}")] {
        std::fs::write(&path, text).unwrap();
        let gateway = TestGateway::start_with(|config| config.key_file = path.clone()).await;
        pairs_with(&gateway, &public).await;
        refuses(&gateway, "something else", "key_unknown").await;
    }
}

/// Whatever is wrong with a file of keys, the message names the file.
#[tokio::test]
async fn a_key_that_cannot_be_had_stops_the_start_and_names_its_file() {
    let (secret, _) = secret_and_public();
    let mut mismatched = BASE64_STANDARD.decode(&secret).unwrap();
    mismatched[40] ^= 1;
    let mismatched = BASE64_STANDARD.encode(mismatched);
    let dir = tempfile::tempdir().unwrap();
    let error = |config: Config| -> GatewayError {
        let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..config };
        Gateway::bind(config, dir.path()).err().expect("refused")
    };
    let from_pair = || error(Config { key: Secret::new("_"), ..Config::default() }).to_string();
    let from_file =
        || error(Config { key_file: "id_ed25519".into(), ..Config::default() }).to_string();
    assert!(from_file().contains("id_ed25519"), "missing: {}", from_file());
    for text in ["", "not a key", &secret[..40], &mismatched] {
        std::fs::write(dir.path().join("id_ed25519"), text).unwrap();
        assert!(from_pair().contains("id_ed25519"), "{text:?}: {}", from_pair());
    }
    for text in ["", " \n", &mismatched] {
        std::fs::write(dir.path().join("id_ed25519"), text).unwrap();
        assert!(from_file().contains("id_ed25519"), "{text:?}: {}", from_file());
    }
}
