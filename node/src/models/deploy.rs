//! Installs a model that was compiled for private jobs.

use super::{
    Installed, Kind, Manifest, ModelError, ModelStore,
    layout::{self, Lock, at},
};
use aitbc_crypto::fhe::{Package, network::Mode, package::MAX_PACKAGE};
use aitbc_protocol::{bytes::Digest, job::ModelName, text::Line};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

/// SPDX's word for a licence that is not told.
const NO_LICENCE: &str = "NOASSERTION";

impl ModelStore {
    /// Reads the file whole, checks that it can be computed, and gives it the name.
    pub(super) fn deploy_file(&self, name: Option<&ModelName>, file: &Path) -> Result<Installed, ModelError> {
        let mut bytes = Vec::new();
        // A byte more than is allowed, so that what is too long is seen to be.
        let most = MAX_PACKAGE as u64 + 1;
        File::open(file).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(at(file))?;
        let package =
            Package::read(&bytes).map_err(|reason| ModelError::NotPrivate { path: file.to_owned(), reason })?;
        let name = match name {
            Some(name) => name.clone(),
            None => ModelName::new(package.name.as_str())
                .map_err(|_| ModelError::Name { name: package.name.clone() })?,
        };
        layout::check_name(&name)?;
        let stem = format!("deploy-{}", layout::file_name(&name));
        let Some(_lock) = Lock::attempt(&self.partial(&format!("{stem}.lock")))? else {
            let busy = format!("another aitbc is deploying {name}: wait until it is done");
            return Err(at(file)(io::Error::new(io::ErrorKind::ResourceBusy, busy)));
        };
        let size = bytes.len() as u64;
        layout::require_space(&self.partial(""), size)?;
        let copy = self.partial(&format!("{stem}.part"));
        File::create(&copy)
            .and_then(|mut output| {
                output.write_all(&bytes)?;
                output.sync_all()
            })
            .map_err(at(&copy))?;
        let manifest = Manifest {
            model: name,
            weights: Digest::of(&bytes),
            size,
            quantisation: Line::lossy(match package.network.mode {
                Mode::Exact => "exact",
                Mode::Approximate => "approximate",
            }),
            licence: Line::lossy(NO_LICENCE),
            sources: Vec::new(),
            kind: Kind::Private,
        };
        self.install(&manifest, Some(&copy))?.ok_or_else(|| {
            at(file)(io::Error::new(io::ErrorKind::NotFound, "its copy vanished while it was installed"))
        })
    }
}
