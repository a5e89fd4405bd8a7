//! The file that a ceremony goes from hand to hand in.
//!
//! ```text
//! "aitbc-ceremony1"
//! contributions to the powers: count (2 bytes), each a name (length, bytes) and three shares
//! the powers; their number follows from the circuit
//! 0 in the first phase; in the second 1, then contributions with one share each, delta in G1 and G2, h and l elements
//! ```

use crate::{
    ceremony::{Ceremony, CeremonyError, CircuitPart, Contribution, POWERS, derive, powers::Powers, share::Share},
    contribution::{MAX_CONTRIBUTIONS, Phase},
    encoding::Reader,
    points::{G1_BYTES, G2_BYTES, write},
    relation::Relation,
    setup::{Points, write_many},
};
use aitbc_protocol::text::Line;
use ark_bn254::Fr;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};

const HEADER: &[u8; 15] = b"aitbc-ceremony1";

/// The most bytes that a ceremony's file has.
pub const MAX_CEREMONY: usize = 8 << 20;

/// Bytes of a share: three points of G1, one of G2, and a number.
const SHARE: usize = 3 * G1_BYTES + G2_BYTES + 32;

impl Share {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write(&self.in_g1, out);
        write(&self.in_g2, out);
        write(&self.after, out);
        write(&self.commitment, out);
        self.response.serialize_compressed(out).expect("a vector takes any number of bytes");
    }

    fn read(bytes: &[u8]) -> Result<Self, CeremonyError> {
        let (points, response) = bytes.split_at_checked(SHARE - 32).ok_or(CeremonyError::Length)?;
        let mut points = Points(points);
        Ok(Self {
            in_g1: points.g1()?,
            in_g2: points.g2()?,
            after: points.g1()?,
            commitment: points.g1()?,
            response: Fr::deserialize_compressed(response).map_err(|_| CeremonyError::Number)?,
        })
    }
}

fn write_contributions(contributions: &[Contribution], out: &mut Vec<u8>) {
    out.extend((contributions.len() as u16).to_le_bytes());
    for contribution in contributions {
        let name = contribution.name.as_str().as_bytes();
        out.push(name.len() as u8);
        out.extend(name);
        for share in &contribution.shares {
            share.write(out);
        }
    }
}

fn read_contributions(
    reader: &mut Reader<'_>,
    phase: Phase,
    shares: usize,
) -> Result<Vec<Contribution>, CeremonyError> {
    let short = |_| CeremonyError::Length;
    let count = usize::from(u16::from_le_bytes(reader.array().map_err(short)?));
    if count > MAX_CONTRIBUTIONS {
        return Err(CeremonyError::Full);
    }
    (0..count)
        .map(|index| {
            let [length] = reader.array().map_err(short)?;
            let name = reader.slice(usize::from(length)).map_err(short)?;
            let name = std::str::from_utf8(name)
                .ok()
                .and_then(|name| Line::new(name).ok())
                .ok_or(CeremonyError::Name { phase, index })?;
            let shares =
                (0..shares).map(|_| Share::read(reader.slice(SHARE).map_err(short)?)).collect::<Result<_, _>>()?;
            Ok(Contribution { name, shares })
        })
        .collect()
}

impl Ceremony {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        write_contributions(&self.contributions, &mut out);
        self.powers.write(&mut out);
        match &self.circuit {
            None => out.push(0),
            Some(circuit) => {
                out.push(1);
                write_contributions(&circuit.contributions, &mut out);
                write(&circuit.delta_g1, &mut out);
                write(&circuit.delta_g2, &mut out);
                write_many(&circuit.h_query, &mut out);
                write_many(&circuit.l_query, &mut out);
            }
        }
        out
    }

    /// The ceremony behind a file's bytes, every point checked; whether the contributions hold is said by
    /// [`Ceremony::verify`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CeremonyError> {
        Self::read(bytes, Relation::attestation())
    }

    pub(super) fn read(bytes: &[u8], relation: &'static Relation) -> Result<Self, CeremonyError> {
        if bytes.len() > MAX_CEREMONY {
            return Err(CeremonyError::Length);
        }
        let short = |_| CeremonyError::Length;
        let mut reader = Reader::new(bytes.strip_prefix(HEADER).ok_or(CeremonyError::Header)?, "ceremony");
        let size = derive::domain_size(relation);
        let contributions = read_contributions(&mut reader, Phase::Powers, POWERS.len())?;
        let powers = (4 * size - 1) * G1_BYTES + (size + 1) * G2_BYTES;
        let powers = Powers::read(&mut Points(reader.slice(powers).map_err(short)?), size)?;
        let circuit = match reader.array().map_err(short)? {
            [0] => None,
            [1] => {
                let contributions = read_contributions(&mut reader, Phase::Circuit, 1)?;
                let (h, l) = (size - 1, relation.witness_variables);
                let points = (1 + h + l) * G1_BYTES + G2_BYTES;
                let mut points = Points(reader.slice(points).map_err(short)?);
                Some(CircuitPart {
                    delta_g1: points.g1()?,
                    delta_g2: points.g2()?,
                    h_query: points.g1_many(h)?,
                    l_query: points.g1_many(l)?,
                    contributions,
                })
            }
            _ => return Err(CeremonyError::Header),
        };
        reader.finish().map_err(short)?;
        Ok(Self { relation, powers, contributions, circuit })
    }
}
