//! Time-stamp tokens (RFC 3161): asked for, and verified with the authority's certificate, which somebody kept.
//!
//! The certificate is trusted as it is given: neither its issuer nor its dates are looked at.

use std::path::Path;

use cms::{
    cert::x509::{Certificate, spki::AlgorithmIdentifier},
    content_info::ContentInfo,
    signed_data::{SignedData, SignerInfo},
};
use der::{
    Decode, Encode,
    asn1::{Any, OctetString},
    oid::ObjectIdentifier,
};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest, Sha256, Sha384, Sha512};
use time::OffsetDateTime;
use x509_tsp::{MessageImprint, TimeStampReq, TimeStampResp, TspVersion, TstInfo};

use crate::store::record::signer::unhex;

const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
/// The attribute that holds the content's digest.
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
/// What signs: whatever an authority is likely to have.
const ALGORITHMS: [&dyn VerificationAlgorithm; 8] = [
    &signature::RSA_PKCS1_2048_8192_SHA256,
    &signature::RSA_PKCS1_2048_8192_SHA384,
    &signature::RSA_PKCS1_2048_8192_SHA512,
    &signature::ECDSA_P256_SHA256_ASN1,
    &signature::ECDSA_P256_SHA384_ASN1,
    &signature::ECDSA_P384_SHA256_ASN1,
    &signature::ECDSA_P384_SHA384_ASN1,
    &signature::ED25519,
];

fn unreadable(e: der::Error) -> String {
    format!("can't be read: {e}")
}

/// Reads a certificate (PEM) as DER.
///
/// # Errors
/// When there is none in the file.
pub fn certificate(path: &Path) -> Result<Vec<u8>, String> {
    let refuse = |why: String| format!("no certificate can be read from {}: {why}", path.display());
    let text = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    let (_, bytes) = der::pem::decode_vec(&text).map_err(|e| refuse(e.to_string()))?;
    Certificate::from_der(&bytes).map_err(|e| refuse(e.to_string()))?;
    Ok(bytes)
}

/// What is posted to an authority, for a SHA-256 digest of 64 hexadecimal digits.
///
/// # Errors
/// When it is none.
pub fn request(digest: &str) -> Result<Vec<u8>, String> {
    let digest = unhex(digest).ok_or("the digest must be 64 hexadecimal digits")?;
    let hash_algorithm = AlgorithmIdentifier { oid: SHA_256, parameters: Some(Any::null()) };
    let hashed_message = OctetString::new(digest).map_err(unreadable)?;
    let request = TimeStampReq {
        version: TspVersion::V1,
        message_imprint: MessageImprint { hash_algorithm, hashed_message },
        req_policy: None,
        nonce: None,
        cert_req: false,
        extensions: None,
    };
    request.to_der().map_err(unreadable)
}

/// The token out of an authority's answer, which must be about this digest.
///
/// # Errors
/// When there is none, or it is about something else.
pub fn token(answer: &[u8], digest: &str) -> Result<Vec<u8>, String> {
    let answer = TimeStampResp::from_der(answer).map_err(unreadable)?;
    let Some(token) = answer.time_stamp_token else {
        return Err(format!("no token was given: {:?}", answer.status.status));
    };
    let token = token.to_der().map_err(unreadable)?;
    open(&token, digest)?;
    Ok(token)
}

/// Verifies a token about a digest with the authority's certificate (DER); returns when it was given.
///
/// # Errors
/// Why it does not hold.
pub fn verify(token: &[u8], digest: &str, certificate: &[u8]) -> Result<OffsetDateTime, String> {
    let certificate = Certificate::from_der(certificate).map_err(|e| format!("the certificate {}", unreadable(e)))?;
    let key = certificate.tbs_certificate.subject_public_key_info.subject_public_key;
    let (signed, content, time) = open(token, digest)?;
    if !signed.signer_infos.0.iter().any(|signer| holds(signer, &content, key.raw_bytes())) {
        return Err("is not signed by this authority".into());
    }
    Ok(time)
}

/// What a token about this digest signs: its content, and when.
fn open(token: &[u8], digest: &str) -> Result<(SignedData, Vec<u8>, OffsetDateTime), String> {
    let content = ContentInfo::from_der(token).and_then(|content| content.content.to_der()).map_err(unreadable)?;
    let signed = SignedData::from_der(&content).map_err(unreadable)?;
    let content = signed.encap_content_info.econtent.as_ref().ok_or("holds nothing")?.value().to_vec();
    let info = TstInfo::from_der(&content).map_err(unreadable)?;
    let imprint = info.message_imprint;
    let same = unhex(digest).is_some_and(|digest| imprint.hashed_message.as_bytes() == digest);
    if imprint.hash_algorithm.oid != SHA_256 || !same {
        return Err("is about something else".into());
    }
    let seconds = info.gen_time.to_unix_duration().as_secs();
    let time = OffsetDateTime::from_unix_timestamp(seconds as i64).map_err(|e| e.to_string())?;
    Ok((signed, content, time))
}

/// Whether this signer signed `content` with `key`.
fn holds(signer: &SignerInfo, content: &[u8], key: &[u8]) -> bool {
    let digest = match signer.digest_alg.oid {
        SHA_256 => Sha256::digest(content).to_vec(),
        SHA_384 => Sha384::digest(content).to_vec(),
        SHA_512 => Sha512::digest(content).to_vec(),
        _ => return false,
    };
    let Some(attributes) = &signer.signed_attrs else { return false };
    let said = attributes.iter().find(|attribute| attribute.oid == MESSAGE_DIGEST);
    let said = said.and_then(|attribute| attribute.values.iter().next());
    let Ok(signed) = attributes.to_der() else { return false };
    said.is_some_and(|said| said.value() == digest)
        && ALGORITHMS.iter().any(|algorithm| {
            UnparsedPublicKey::new(*algorithm, key).verify(&signed, signer.signature.as_bytes()).is_ok()
        })
}
