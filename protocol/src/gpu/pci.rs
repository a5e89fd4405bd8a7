//! Names of GPUs by their PCI ids, out of the PCI ID Repository (`data/pci.txt`; `NOTICE` names the source).

use super::Vendor;

/// A line a device: eight hexadecimal digits, vendor and device, a space, and the name; in order.
const TABLE: &str = include_str!("../../data/pci.txt");

/// The maker with this PCI id, of those that put GPUs on the bus.
pub fn vendor(id: u16) -> Option<Vendor> {
    match id {
        0x1002 => Some(Vendor::Amd),
        0x10de => Some(Vendor::Nvidia),
        0x8086 => Some(Vendor::Intel),
        _ => None,
    }
}

/// The repository's name of a GPU: its chip, and in square brackets the cards that it is sold as.
pub fn name(vendor: u16, device: u16) -> Option<&'static str> {
    let id = format!("{vendor:04x}{device:04x}");
    let line = TABLE.lines().find(|line| line.starts_with(&id))?;
    line.get(id.len() + 1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_names() {
        assert_eq!(name(0x10de, 0x2684), Some("AD102 [GeForce RTX 4090]"));
        assert_eq!(name(0x8086, 0x56a0), Some("DG2 [Arc A770]"));
        assert_eq!(name(0x1af4, 0x1050), None, "a virtual card");
        assert_eq!(vendor(0x1002), Some(Vendor::Amd));
    }

    #[test]
    fn every_line_can_be_read() {
        for line in TABLE.lines() {
            let (id, name) = line.split_once(' ').expect(line);
            let id = u32::from_str_radix(id, 16).expect(line);
            assert!(vendor((id >> 16) as u16).is_some() && !name.is_empty(), "{line}");
        }
        assert!(TABLE.lines().is_sorted());
    }
}
