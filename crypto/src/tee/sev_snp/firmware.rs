//! AMD's products, their roots, and how old their firmware may be.

use aitbc_protocol::Digest;
use sev::firmware::host::TcbVersion;
use std::fmt;

/// A line of processors with SEV-SNP: each has a root key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004 and 97x4 (Genoa, Siena, Bergamo).
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// How AMD's certificates begin its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// One root key of AMD's (ARK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// SHA-256 of its certificate (DER).
    pub digest: Digest,
    /// For which processors it stands.
    pub product: Product,
}

/// AMD's root keys, as its Key Distribution Service gives them (`/vcek/v1/{Milan,Genoa,Turin}/cert_chain`).
pub const AMD_ROOTS: [Root; 3] = [
    Root {
        digest: Digest([
            0x69, 0xd0, 0x63, 0xb4, 0x53, 0x44, 0xd2, 0x6a, 0x2e, 0x94, 0xe1, 0xf4, 0x21, 0x0d, 0xe4, 0x9e, 0xf5,
            0x55, 0x30, 0x82, 0x87, 0xd4, 0xc1, 0x74, 0x44, 0x5c, 0x95, 0x63, 0x9a, 0x54, 0x0b, 0xcd,
        ]),
        product: Product::Milan,
    },
    Root {
        digest: Digest([
            0x4c, 0x65, 0x98, 0xd1, 0x9c, 0x18, 0x71, 0x9c, 0x5d, 0xfd, 0x4a, 0x7d, 0x33, 0x5f, 0x67, 0x4e, 0x5b,
            0xfe, 0x1d, 0x8f, 0x80, 0x0c, 0xea, 0x2c, 0xf2, 0x70, 0xc1, 0x0d, 0x10, 0x3d, 0xb2, 0xf1,
        ]),
        product: Product::Genoa,
    },
    Root {
        digest: Digest([
            0x1f, 0x08, 0x41, 0x61, 0xa4, 0x4b, 0xb6, 0xd9, 0x37, 0x78, 0xa9, 0x04, 0x87, 0x7d, 0x48, 0x19, 0xca,
            0xfa, 0x5d, 0x05, 0xef, 0x41, 0x93, 0xb2, 0xde, 0xd9, 0xdd, 0x9c, 0x73, 0xdd, 0x3f, 0x6a,
        ]),
        product: Product::Turin,
    },
];

/// Security versions of the parts of firmware (TCB_VERSION in AMD's 56860, section 2.2): more is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// First mutable code; Turin alone has it, elsewhere it is 0.
    pub fmc: u8,
    /// Boot loader of the secure processor.
    pub bootloader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode: comparable within one stepping alone.
    pub microcode: u8,
}

impl From<TcbVersion> for Versions {
    fn from(tcb: TcbVersion) -> Self {
        Self {
            fmc: tcb.fmc.unwrap_or(0),
            bootloader: tcb.bootloader,
            tee: tcb.tee,
            snp: tcb.snp,
            microcode: tcb.microcode,
        }
    }
}

impl Versions {
    /// Its parts, by name.
    pub fn parts(self) -> [(&'static str, u8); 5] {
        [
            ("fmc", self.fmc),
            ("boot loader", self.bootloader),
            ("tee", self.tee),
            ("snp", self.snp),
            ("microcode", self.microcode),
        ]
    }

    /// The first part that is older than in `least`: its name, what it is and what it should be.
    pub fn shortfall(self, least: Self) -> Option<(&'static str, u8, u8)> {
        self.parts()
            .into_iter()
            .zip(least.parts())
            .find_map(|((part, have), (_, needs))| (have < needs).then_some((part, have, needs)))
    }
}

/// The oldest firmware that is taken, for each product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floors {
    /// For Milan.
    pub milan: Versions,
    /// For Genoa.
    pub genoa: Versions,
    /// For Turin.
    pub turin: Versions,
}

/// The SNP firmware from which on forged microcode is kept out (AMD-SB-3019, CVE-2024-56161): 0x18 on Milan, 0x17 on
/// Genoa; the bulletin names no Turin. Its figures for microcode differ by stepping and are left out.
pub const AMD_SB_3019: Floors = Floors {
    milan: Versions { fmc: 0, bootloader: 0, tee: 0, snp: 0x18, microcode: 0 },
    genoa: Versions { fmc: 0, bootloader: 0, tee: 0, snp: 0x17, microcode: 0 },
    turin: Versions { fmc: 0, bootloader: 0, tee: 0, snp: 0, microcode: 0 },
};

impl Floors {
    /// That of one product.
    pub fn of(&self, product: Product) -> Versions {
        match product {
            Product::Milan => self.milan,
            Product::Genoa => self.genoa,
            Product::Turin => self.turin,
        }
    }
}
