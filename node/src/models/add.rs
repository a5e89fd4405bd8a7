//! Installs a GGUF file that the owner has.

use super::{
    Installed, Kind, Manifest, ModelError, ModelStore,
    gguf::Header,
    layout::{self, Lock, at},
    meter::{self, Gauge, Meter},
};
use aitbc_protocol::{bytes::Digest, job::ModelName, text::Line};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

/// SPDX's word for a licence that is not told.
const NO_LICENCE: &str = "NOASSERTION";

impl ModelStore {
    /// Copies the file into the store, hashing it on the way, and gives it the name.
    pub(super) async fn add_file(
        &self,
        name: &ModelName,
        file: &Path,
        size: u64,
        meter: &mut Meter<'_>,
    ) -> Result<Installed, ModelError> {
        let stem = format!("add-{}", layout::file_name(name));
        let Some(_lock) = Lock::attempt(&self.partial(&format!("{stem}.lock")))? else {
            return Err(at(file)(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("another aitbc is adding {name}: wait until it is done"),
            )));
        };
        meter.stage("copying and hashing");
        let copy = self.partial(&format!("{stem}.part"));
        let (store, from, to, name) = (self.clone(), file.to_owned(), copy.clone(), name.clone());
        let result = meter::blocking(meter, move |gauge| store.copy(&name, &from, &to, size, gauge))
            .await
            .map_err(at(file))
            .and_then(|result| result);
        let manifest = match result {
            Ok(manifest) => manifest,
            Err(error) => {
                layout::remove_if_there(&copy)?;
                return Err(self.name_full_disk(error, size));
            }
        };
        self.install_in_background(&manifest, Some(copy)).await?.ok_or_else(|| {
            at(file)(io::Error::new(io::ErrorKind::NotFound, "its copy vanished while it was installed"))
        })
    }

    fn copy(
        &self,
        name: &ModelName,
        from: &Path,
        to: &Path,
        size: u64,
        gauge: &Gauge,
    ) -> Result<Manifest, ModelError> {
        let mut input = File::open(from).map_err(at(from))?;
        let header = Header::read(&input, size)
            .map_err(|error| ModelError::NotGguf { path: from.to_owned(), reason: error.to_string() })?;
        layout::require_space(&self.partial(""), size)?;
        io::Seek::rewind(&mut input).map_err(at(from))?;
        let mut output = File::create(to).map_err(at(to))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1024 * 1024];
        let mut copied = 0;
        loop {
            let read = input.read(&mut buffer).map_err(at(from))?;
            if read == 0 {
                break;
            }
            copied += read as u64;
            hasher.update(&buffer[..read]);
            output.write_all(&buffer[..read]).and_then(|()| gauge.advance(read)).map_err(at(to))?;
        }
        if copied != size {
            return Err(at(from)(io::Error::other("it changed while it was copied: add it again")));
        }
        output.sync_all().map_err(at(to))?;
        Ok(Manifest {
            model: name.clone(),
            weights: Digest(hasher.finalize().into()),
            size,
            quantisation: Line::lossy(header.quantisation()),
            licence: Line::lossy(header.licence.as_deref().unwrap_or(NO_LICENCE)),
            sources: Vec::new(),
            kind: Kind::Gguf,
        })
    }
}
