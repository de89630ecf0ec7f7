//! Nodes that show each other certificates.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::*;

/// An authority, and what it vouches for.
pub(super) struct Authority(Issuer<'static, KeyPair>, String);

/// The files of a node.
pub(super) struct Files(pub(super) tempfile::TempDir);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("it works");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("it works");
        let cert = params.self_signed(&key).expect("it works").pem();
        Self(Issuer::new(params, key), cert)
    }

    /// Files of a node with a certificate for `name` by this authority, that believe `believed`.
    pub(super) fn files(&self, name: &str, believed: &Self, expired: bool) -> Files {
        let files = Files(tempfile::tempdir().expect("it works"));
        self.write(&files, name, believed, expired);
        files
    }

    pub(super) fn write(&self, Files(dir): &Files, name: &str, believed: &Self, expired: bool) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("it works");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        }
        let key = KeyPair::generate().expect("it works");
        let cert = params.signed_by(&key, &self.0).expect("it works");
        std::fs::write(dir.path().join("cert.pem"), cert.pem()).expect("it works");
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).expect("it works");
        std::fs::write(dir.path().join("ca.pem"), &believed.1).expect("it works");
    }
}

impl Files {
    fn node(&self, instance: u64) -> TestNode {
        let config = ClusterTlsConfig {
            cert: "cert.pem".into(),
            key: "key.pem".into(),
            ca: "ca.pem".into(),
        };
        TestNode::start_with(instance, SECRET, PATIENCE, Some((&config, self.0.path())))
    }
}

#[tokio::test]
async fn within_tls_a_leg_crosses_both_ways_and_each_way_ends_by_itself() {
    let authority = Authority::new("ours");
    for name in ["127.0.0.1", "relay-node"] {
        let mut host = authority.files(name, &authority, false).node(1);
        let caller = authority.files("any.example", &authority, false).node(2);
        let mut between = Between::start(&host.node.address, Change::None).await;
        let to = host.through(&between);
        crosses(&caller.links, &to, &mut host).await;
        let [up, down] = between.recorded().await;
        for bytes in [up, down] {
            assert!(bytes.len() > 400_000);
            assert!(!bytes.windows(6).any(|part| part == b"node-2"), "it can be read");
        }
    }
}

/// Who is refused, and with what words on the caller's side and reason on the host's.
#[tokio::test]
async fn who_has_no_certificate_of_the_nodes_authority_is_not_let_in() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.files("relay-node", &ours, false);
    for (what, files, words) in [
        ("another authority's", theirs.files("relay-node", &ours, false), "UnknownCA"),
        ("expired", ours.files("relay-node", &ours, true), "CertificateExpired"),
    ] {
        let mut host = good.node(1);
        let caller = files.node(2);
        let fault = hand_over(&caller.links, &host.node).await.unwrap_err().to_string();
        assert!(fault.contains(words) && fault.contains("cluster.tls.ca"), "{what}: {fault}");
        host.until_refused("tls_handshake", 1).await;
        host.assert_alone();
        // The same as a host: the caller does not say a word to it.
        let (mut host, caller) = (files.node(1), good.node(2));
        let fault = hand_over(&caller.links, &host.node).await.unwrap_err().to_string();
        assert!(fault.contains("invalid peer certificate"), "{what}: {fault}");
        host.until_refused("tls_handshake", 1).await;
        host.assert_alone();
    }
    // A certificate of the authority, for another host.
    let (mut host, caller) = (ours.files("other.example", &ours, false).node(1), good.node(2));
    let fault = hand_over(&caller.links, &host.node).await.unwrap_err().to_string();
    assert!(fault.contains("certificate") && fault.contains("relay-node"), "{fault}");
    host.assert_alone();
}

#[tokio::test]
async fn a_node_without_tls_and_one_with_it_do_not_speak() {
    let authority = Authority::new("ours");
    let files = authority.files("relay-node", &authority, false);
    let patience = Duration::from_millis(500);
    let mut secured = files.node(1);
    let plain = TestNode::start_with(2, SECRET, patience, None);
    // It waits for a greeting, which does not come unless TLS begins.
    let fault = hand_over(&plain.links, &secured.node).await.unwrap_err();
    assert!(matches!(fault, LinkError::TimedOut), "{fault}");
    secured.assert_alone();
    let mut plain = TestNode::start_with(1, SECRET, patience, None);
    let secured = files.node(2);
    let fault = hand_over(&secured.links, &plain.node).await.unwrap_err();
    assert!(matches!(fault, LinkError::Tls(_)), "{fault}");
    plain.assert_alone();
}

/// Who knows the secret and has no certificate; and who has one, and does not know the secret.
#[tokio::test]
async fn a_certificate_and_the_secret_are_both_needed() {
    let authority = Authority::new("ours");
    let files = authority.files("relay-node", &authority, false);
    let mut host = files.node(1);
    let config =
        ClusterTlsConfig { cert: "cert.pem".into(), key: "key.pem".into(), ca: "ca.pem".into() };
    let tls = Some((&config, files.0.path()));
    let caller = TestNode::start_with(2, "another secret of 32 characters!", PATIENCE, tls);
    let fault = hand_over(&caller.links, &host.node).await.unwrap_err();
    assert!(matches!(fault, LinkError::SecretRefused), "{fault}");
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(
            authority.1.as_bytes(),
        )
        .flatten(),
    );
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("relay-node").unwrap();
    let socket = TcpStream::connect(&*host.node.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut nobody = connector.connect(name, socket).await.expect("it is told only then");
    let fault = nobody.read(&mut [0; 100]).await.unwrap_err();
    assert!(fault.to_string().contains("CertificateRequired"), "{fault}");
    host.until_refused("tls_handshake", 1).await;
    host.assert_alone();
}
