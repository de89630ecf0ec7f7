//! One order, from asking to the certificate.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use super::{
    AcmeError,
    certificate::Issued,
    shown::{Proof, Shown},
};
use crate::config::AcmeConfig;

/// How the authority is asked whether it has got on.
const ASKING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Proves every name of `config`, and fetches the certificate for them.
pub(super) async fn certificate(
    account: &Account,
    config: &AcmeConfig,
    shown: &Shown,
    provider: &Arc<CryptoProvider>,
) -> Result<Issued, AcmeError> {
    let names: Vec<_> = config.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    // Shown until the authority has seen them.
    let proofs = prove(&mut order, shown, provider).await?;
    match order.poll_ready(&ASKING).await? {
        OrderStatus::Ready => {}
        status => return Err(AcmeError::Order(status)),
    }
    drop(proofs);
    let key = KeyPair::generate()?;
    let mut request = CertificateParams::new(config.domains.clone())?;
    request.distinguished_name = rcgen::DistinguishedName::new();
    order.finalize_csr(request.serialize_request(&key)?.der()).await?;
    let chain = order.poll_certificate(&ASKING).await?;
    Ok(Issued::new(config, chain, key.serialize_pem()))
}

async fn prove<'a>(
    order: &mut Order,
    shown: &'a Shown,
    provider: &CryptoProvider,
) -> Result<Vec<Proof<'a>>, AcmeError> {
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        let domain = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Pending => {
                proofs.push(prove_one(authorization, domain, shown, provider).await?);
            }
            // Proved lately.
            AuthorizationStatus::Valid => {}
            status => return Err(AcmeError::Refused { domain, status }),
        }
    }
    Ok(proofs)
}

async fn prove_one<'a>(
    mut authorization: AuthorizationHandle<'_>,
    domain: String,
    shown: &'a Shown,
    provider: &CryptoProvider,
) -> Result<Proof<'a>, AcmeError> {
    let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
        return Err(AcmeError::NoProof { domain });
    };
    let digest = challenge.key_authorization().digest();
    let certificate = proof(&domain, digest.as_ref(), provider)?;
    let proof = shown.prove(domain, certificate);
    challenge.set_ready().await?;
    Ok(proof)
}

/// The certificate of RFC 8737, section 3: for the name alone, the digest in an extension.
fn proof(
    domain: &str,
    digest: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, AcmeError> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Not `from_der`: that refuses the extension, which is critical.
    let key = provider.key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}
