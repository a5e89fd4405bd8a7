//! Points of BN254 in bytes: compressed, little-endian, one encoding each, checked before anything is computed with them.

use ark_bn254::{G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_serialize::{CanonicalDeserialize, Compress, SerializationError, Validate};

/// Bytes of a compressed point of G1.
pub const G1_BYTES: usize = 32;
/// Bytes of a compressed point of G2.
pub const G2_BYTES: usize = 64;

/// Why bytes are not a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointError {
    /// The wrong number of bytes.
    #[error("wrong number of bytes")]
    Length,
    /// No point of the curve has this coordinate.
    #[error("not a point of the curve")]
    Curve,
    /// A coordinate at or above the modulus, or bits that have no meaning.
    #[error("not the canonical encoding")]
    Canonical,
    /// Outside of the group of prime order.
    #[error("a point outside of the prime-order subgroup")]
    Subgroup,
}

/// Appends a point of G1 or G2.
pub(crate) fn write(point: &impl AffineRepr, out: &mut Vec<u8>) {
    point.serialize_compressed(out).expect("a vector takes any number of bytes");
}

/// Reads a point of G1, which has no other subgroup.
pub(crate) fn read_g1(bytes: &[u8]) -> Result<G1Affine, PointError> {
    if bytes.len() != G1_BYTES {
        return Err(PointError::Length);
    }
    read(bytes)
}

/// Reads a point of G2.
pub(crate) fn read_g2(bytes: &[u8]) -> Result<G2Affine, PointError> {
    if bytes.len() != G2_BYTES {
        return Err(PointError::Length);
    }
    let point: G2Affine = read(bytes)?;
    if point.is_in_correct_subgroup_assuming_on_curve() { Ok(point) } else { Err(PointError::Subgroup) }
}

fn read<A: AffineRepr>(bytes: &[u8]) -> Result<A, PointError> {
    if !coordinates_are_canonical::<A>(bytes) {
        return Err(PointError::Canonical);
    }
    let point = A::deserialize_with_mode(bytes, Compress::Yes, Validate::No).map_err(|error| match error {
        SerializationError::UnexpectedFlags => PointError::Canonical,
        _ => PointError::Curve,
    })?;
    let mut again = Vec::with_capacity(bytes.len());
    write(&point, &mut again);
    if again == bytes { Ok(point) } else { Err(PointError::Canonical) }
}

/// That each coordinate, without the two flags in the highest bits of the last byte, is below the modulus.
fn coordinates_are_canonical<A: AffineRepr>(bytes: &[u8]) -> bool {
    let mut plain = bytes.to_vec();
    if let Some(last) = plain.last_mut() {
        *last &= 0x3f;
    }
    A::BaseField::deserialize_compressed(&plain[..]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_bn254::{Fq, Fq2, G2Affine};
    use ark_ff::{BigInteger, PrimeField};

    fn encoded(point: &impl AffineRepr) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(point, &mut bytes);
        bytes
    }

    /// A point of the twist that is not in the subgroup.
    fn outside_the_subgroup() -> G2Affine {
        (1u64..1000)
            .filter_map(|x| G2Affine::get_point_from_x_unchecked(Fq2::new(Fq::from(x), Fq::from(0)), true))
            .find(|point| !point.is_in_correct_subgroup_assuming_on_curve())
            .unwrap()
    }

    #[test]
    fn generators_and_identities_go_round() {
        for point in [G1Affine::generator(), -G1Affine::generator(), G1Affine::zero()] {
            assert_eq!(read_g1(&encoded(&point)), Ok(point));
        }
        for point in [G2Affine::generator(), -G2Affine::generator(), G2Affine::zero()] {
            assert_eq!(read_g2(&encoded(&point)), Ok(point));
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        assert_eq!(read_g1(&[0; 31]), Err(PointError::Length));
        assert_eq!(read_g2(&[0; 65]), Err(PointError::Length));
        assert_eq!(read_g2(&encoded(&outside_the_subgroup())), Err(PointError::Subgroup));

        // The generator's x = 1, and the same number with the modulus added to it.
        let mut above = Fq::MODULUS;
        above.add_with_carry(&Fq::from(1).into_bigint());
        let bytes = above.to_bytes_le();
        assert_eq!(read_g1(&bytes), Err(PointError::Canonical));

        // The point at infinity, with something in its coordinate, and with both flags.
        let mut infinity = encoded(&G1Affine::zero());
        infinity[0] = 1;
        assert_eq!(read_g1(&infinity), Err(PointError::Canonical));
        infinity[0] = 0;
        infinity[31] = 0xc0;
        assert_eq!(read_g1(&infinity), Err(PointError::Canonical));

        let off = (0u8..100).find(|x| G1Affine::get_point_from_x_unchecked(Fq::from(*x), true).is_none()).unwrap();
        let mut bytes = [0; G1_BYTES];
        bytes[0] = off;
        assert_eq!(read_g1(&bytes), Err(PointError::Curve));
    }
}
