//! What an API server proves itself with. It would make a certificate itself, of RSA: up to a second of the CPU at each
//! start, and later at each connection.

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::home::{API, API_SERVICE};

/// All in PEM.
pub(crate) struct Certificate {
    /// The certificate of who signed it, which clients trust.
    pub authority: String,
    pub chain: String,
    pub key: String,
}

impl Certificate {
    /// Of an API server, by whatever name or address tests reach it.
    pub fn new() -> Result<Self> {
        let service = API_SERVICE.split('/').next().context("no address of the Service")?.to_owned();
        let names = ["kubernetes", "kubernetes.default.svc", "localhost", "127.0.0.1"].map(str::to_owned);
        let names: Vec<_> = names.into_iter().chain([API.ip().to_string(), service]).collect();
        let mut authority = named("cadastre-tests-ca", Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut server = named("kube-apiserver", names)?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];

        let (authority_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let trusted = authority.self_signed(&authority_key)?.pem();
        let chain = server.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
        Ok(Self { authority: trusted, chain, key: key.serialize_pem() })
    }
}

fn named(name: &str, reached_by: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(reached_by)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
