//! The table of certificates that a host hands to its guest beside a report (SEV-ES GHCB specification 2.03, section 4.1.8.1):
//! entries of a GUID, an offset and a length, ended by one of zeros, and then the certificates.

use super::{SnpError, SnpEvidence};
use aitbc_protocol::bytes::BoundedBytes;

/// `63da758d-e664-4564-adc5-f4b93be8accd`
const VCEK: [u8; 16] =
    [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
/// `4ab7b379-bbac-4fe4-a02f-05aef327c782`
const ASK: [u8; 16] =
    [0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82];
/// `c0b406a4-a803-4952-9743-3fb6014cd0ae`
const ARK: [u8; 16] =
    [0xc0, 0xb4, 0x06, 0xa4, 0xa8, 0x03, 0x49, 0x52, 0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0, 0xae];
/// Bytes of an entry.
const ENTRY: usize = 24;
/// Most entries that are looked at.
const MOST: usize = 16;

/// Hosts write GUIDs in the order of their text or in that of EFI, whose first three fields are little-endian.
fn is(guid: &[u8], wanted: [u8; 16]) -> bool {
    let mut mixed = wanted;
    mixed[..4].reverse();
    mixed[4..6].reverse();
    mixed[6..8].reverse();
    guid == wanted || guid == mixed
}

/// The certificate with a GUID.
fn find(table: &[u8], wanted: [u8; 16]) -> Option<&[u8]> {
    let entry = table.chunks_exact(ENTRY).take(MOST).take_while(|entry| entry.iter().any(|byte| *byte != 0));
    let entry = entry.into_iter().find(|entry| is(&entry[..16], wanted))?;
    let number = |at: usize| Some(u32::from_le_bytes(entry.get(at..at + 4)?.try_into().ok()?) as usize);
    let (offset, length) = (number(16)?, number(20)?);
    table.get(offset..offset.checked_add(length)?)
}

impl SnpEvidence {
    /// A report with the certificates of the host's table.
    pub fn from_table(report: Vec<u8>, table: &[u8]) -> Result<Self, SnpError> {
        let certificate = |guid, name| {
            let found = find(table, guid).ok_or(SnpError::NoCertificate(name))?;
            BoundedBytes::new(found.to_vec()).map_err(|_| SnpError::NoCertificate(name))
        };
        Ok(Self {
            report: BoundedBytes::new(report).map_err(|_| SnpError::Malformed)?,
            vcek: certificate(VCEK, "VCEK")?,
            ask: certificate(ASK, "ASK")?,
            ark: certificate(ARK, "ARK")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(guids: &[[u8; 16]]) -> Vec<u8> {
        let head = (guids.len() + 1) * ENTRY;
        let mut table = Vec::new();
        for (index, guid) in guids.iter().enumerate() {
            table.extend(guid);
            table.extend(u32::try_from(head + index * 2).unwrap().to_le_bytes());
            table.extend(2_u32.to_le_bytes());
        }
        table.extend([0; ENTRY]);
        for index in 0..guids.len() {
            table.extend([index as u8, 7]);
        }
        table
    }

    #[test]
    fn certificates_are_found_in_both_orders_of_bytes() {
        let efi = |mut guid: [u8; 16]| {
            guid[..4].reverse();
            guid[4..6].reverse();
            guid[6..8].reverse();
            guid
        };
        for table in [table(&[ARK, VCEK, ASK]), table(&[efi(ARK), efi(VCEK), efi(ASK)])] {
            let evidence = SnpEvidence::from_table(vec![1], &table).unwrap();
            assert_eq!(
                (&evidence.ark[..], &evidence.vcek[..], &evidence.ask[..]),
                (&[0, 7][..], &[1, 7][..], &[2, 7][..])
            );
        }
    }

    #[test]
    fn what_the_host_left_out_is_named() {
        let error = SnpEvidence::from_table(vec![1], &table(&[ARK, VCEK])).unwrap_err();
        assert_eq!(error, SnpError::NoCertificate("ASK"));
        assert_eq!(SnpEvidence::from_table(vec![1], &[]).unwrap_err(), SnpError::NoCertificate("VCEK"));
    }

    proptest! {
        #[test]
        fn no_table_panics(mut table in proptest::collection::vec(any::<u8>(), 0..200), guid in 0..3) {
            if table.len() >= 16 {
                table[..16].copy_from_slice(&[VCEK, ASK, ARK][guid as usize]);
            }
            let _ = SnpEvidence::from_table(Vec::new(), &table);
        }
    }
}
