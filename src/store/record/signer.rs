//! The key that signs the record: `record.key` (secret, mode 0600) and `record.pub` beside the database.
//!
//! Invariant: a key is made only together with a record, and gets its name when that is committed: where a key is and no record,
//! somebody took the record away. A record whose key is gone is never continued with another.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::files;

/// Name of the secret key's file in the store's folder: 64 hexadecimal digits.
pub const SECRET: &str = "record.key";
/// Name of the secret key's file until the record that it begins is committed.
const DRAFT: &str = ".record.key.new";
/// Name of the public key's file in the store's folder: 64 hexadecimal digits.
pub const PUBLIC: &str = "record.pub";

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the key {path} can't be used: {why}")]
pub struct KeyError {
    /// Its file.
    pub path: PathBuf,
    /// The system's words or ours.
    pub why: String,
}

/// What is signed: that the record reached this entry by this time.
pub(in crate::store) struct Mark<'a> {
    /// `head` or `checkpoint`; one can't stand for the other.
    pub kind: &'static str,
    pub seq: i64,
    pub hash: &'a [u8; 32],
    pub time: &'a str,
}

impl Mark<'_> {
    fn bytes(&self) -> Vec<u8> {
        let start = format!("beltsight record {}\n", self.kind);
        [start.as_bytes(), &self.seq.to_be_bytes(), self.hash, self.time.as_bytes()].concat()
    }

    pub(in crate::store) fn signed(&self, key: &VerifyingKey, signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|s| key.verify_strict(&self.bytes(), &s).is_ok())
    }
}

pub(in crate::store) struct Signer(SigningKey);

impl Signer {
    /// Makes a key for a record that is about to begin; [`Signer::keep`] gives it its name.
    pub(in crate::store) fn make(folder: &Path) -> Result<Self, KeyError> {
        let draft = folder.join(DRAFT);
        let refuse = |e: io::Error| KeyError { path: draft.clone(), why: e.to_string() };
        match fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(refuse(e)),
            _ => {} // of a start that broke off
        }
        let key = SigningKey::from_bytes(&rand::random());
        write(&draft, true, key.as_bytes())?;
        Ok(Self(key))
    }

    /// Gives the key its name, after its record was committed, and writes the public file.
    pub(in crate::store) fn keep(folder: &Path) -> Result<(), KeyError> {
        let secret = folder.join(SECRET);
        let named = fs::rename(folder.join(DRAFT), &secret).and_then(|()| files::sync_folder_of(&secret));
        named.map_err(|e| KeyError { path: secret, why: e.to_string() })?;
        Self::open(folder).map(drop)
    }

    /// Reads the secret key, and makes the public file again if it is missing.
    pub(in crate::store) fn open(folder: &Path) -> Result<Self, KeyError> {
        let (secret, draft) = (folder.join(SECRET), folder.join(DRAFT));
        if !secret.exists() && draft.exists() {
            return Ok(Self(SigningKey::from_bytes(&read(&draft)?))); // the start broke off before it had its name
        }
        if !secret.exists() {
            let why = "it is not there: put it back from where it is kept; without it the record can be read and verified, \
                       never continued";
            return Err(KeyError { path: secret, why: why.into() });
        }
        let signer = Self(SigningKey::from_bytes(&read(&secret)?));
        let public = folder.join(PUBLIC);
        if !public.exists() {
            write(&public, false, signer.public().as_bytes())?;
        }
        Ok(signer)
    }

    pub(in crate::store) fn sign(&self, mark: &Mark<'_>) -> [u8; 64] {
        self.0.sign(&mark.bytes()).to_bytes()
    }

    pub(in crate::store) fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }
}

/// Reads a public key file.
///
/// # Errors
/// When it is not there or no ed25519 public key.
pub(in crate::store) fn public_key(path: &Path) -> Result<VerifyingKey, KeyError> {
    VerifyingKey::from_bytes(&read(path)?).map_err(|e| KeyError { path: path.into(), why: e.to_string() })
}

fn write(path: &Path, private: bool, bytes: &[u8; 32]) -> Result<(), KeyError> {
    let text = format!("{}\n", hex(bytes));
    files::create(path, text.as_bytes(), private).map_err(|e| KeyError { path: path.into(), why: e.to_string() })
}

fn read(path: &Path) -> Result<[u8; 32], KeyError> {
    let refuse = |why: String| KeyError { path: path.into(), why };
    let text = fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    unhex(text.trim()).ok_or_else(|| refuse("it must hold 64 hexadecimal digits".into()))
}

/// Lower-case hexadecimal digits.
pub(in crate::store) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes out of 64 hexadecimal digits.
pub(in crate::store) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
