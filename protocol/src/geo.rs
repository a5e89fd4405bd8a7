//! Places: geohash cells, rings of cells around a place, distances, and the names cells have in the DHT and in
//! gossip.

use crate::{envelope::NetworkId, text::Line};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Mean radius of the earth in km (IUGG).
pub const EARTH_RADIUS_KM: f64 = 6371.0088;
/// Kilometres that light in fibre travels in a millisecond: two thirds of c.
pub const FIBRE_KM_PER_MS: f64 = 299.792_458 * 2.0 / 3.0;
/// The coarsest precision under which providers announce themselves.
pub const COARSEST: u8 = 2;
/// The finest precision any node may announce: about 150 m.
pub const FINEST: u8 = 7;
/// Default precision of an announcement: about 20 km by 39 km.
pub const DEFAULT_PRECISION: u8 = 4;
/// The finest precision with a gossip topic.
pub const FINEST_TOPIC: u8 = 4;

/// A point on the earth in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Latitude, -90 to 90.
    pub latitude: f64,
    /// Longitude, -180 to 180.
    pub longitude: f64,
}

/// Why a text is not a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeoError {
    /// Not `latitude,longitude` in degrees.
    #[error("{0:?} is not a location: write latitude,longitude in degrees, such as 48.85,2.35")]
    Location(String),
    /// Not a geohash of a precision in use.
    #[error("{0:?} is not a cell: a geohash of {COARSEST} to {FINEST} characters, such as u09t")]
    Cell(String),
}

impl Location {
    /// Takes finite degrees within range.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, GeoError> {
        if (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude) {
            Ok(Self { latitude, longitude })
        } else {
            Err(GeoError::Location(format!("{latitude},{longitude}")))
        }
    }

    /// Great-circle distance in km (haversine on a sphere of [`EARTH_RADIUS_KM`]; error under 0.6 %).
    pub fn distance_km(&self, other: &Self) -> f64 {
        let (lat1, lat2) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_dlat = (lat2 - lat1) / 2.0;
        let half_dlon = (other.longitude - self.longitude).to_radians() / 2.0;
        let a = half_dlat.sin().powi(2) + lat1.cos() * lat2.cos() * half_dlon.sin().powi(2);
        2.0 * EARTH_RADIUS_KM * a.sqrt().min(1.0).asin()
    }
}

impl FromStr for Location {
    type Err = GeoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || GeoError::Location(text.chars().take(64).collect());
        let (latitude, longitude) = text.split_once(',').ok_or_else(fail)?;
        let degrees = |part: &str| part.trim().parse::<f64>().map_err(|_| fail());
        Self::new(degrees(latitude)?, degrees(longitude)?).map_err(|_| fail())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{},{}", self.latitude, self.longitude)
    }
}

/// Share of the least round trip that a measured one may fall below, for clocks and what the size of a cell leaves open.
pub const LIGHT_SLACK: f64 = 0.9;

/// The least round trip over `km` that physics allows, in milliseconds: both ways at two thirds of c.
pub fn least_round_trip_ms(km: f64) -> f64 {
    2.0 * km / FIBRE_KM_PER_MS
}

/// A geohash cell of precision [`COARSEST`] to [`FINEST`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    characters: [u8; FINEST as usize],
    precision: u8,
}

impl Cell {
    /// The cell of `precision` (clamped to the range in use) that holds `location`.
    pub fn at(location: &Location, precision: u8) -> Self {
        let precision = precision.clamp(COARSEST, FINEST);
        let coordinate = geohash::Coord { x: location.longitude, y: location.latitude };
        let text = geohash::encode(coordinate, usize::from(precision))
            .expect("a Location is in range, and so is a clamped precision");
        Self::from_text(&text).expect("geohash::encode writes a geohash")
    }

    fn from_text(text: &str) -> Option<Self> {
        let precision = u8::try_from(text.len()).ok().filter(|p| (COARSEST..=FINEST).contains(p))?;
        let alphabet = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() && !b"ailo".contains(&b);
        if !text.bytes().all(alphabet) {
            return None;
        }
        let mut characters = [0; FINEST as usize];
        characters[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { characters, precision })
    }

    /// The geohash.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.characters[..usize::from(self.precision)]).expect("a cell is ASCII")
    }

    /// Characters in the geohash: each divides a cell by 32.
    pub fn precision(&self) -> u8 {
        self.precision
    }

    /// The cell of a coarser precision that holds this one; itself where `precision` is not coarser.
    #[must_use]
    pub fn coarsened(&self, precision: u8) -> Self {
        let precision = precision.clamp(COARSEST, self.precision);
        let mut characters = [0; FINEST as usize];
        characters[..usize::from(precision)].copy_from_slice(&self.characters[..usize::from(precision)]);
        Self { characters, precision }
    }

    /// True if `other` lies within this cell.
    pub fn contains(&self, other: &Self) -> bool {
        other.precision >= self.precision && other.coarsened(self.precision) == *self
    }

    fn bounds(self) -> (Location, Location) {
        let rectangle = geohash::decode_bbox(self.as_str()).expect("a cell is a geohash");
        let corner = |c: geohash::Coord| Location { latitude: c.y, longitude: c.x };
        (corner(rectangle.min()), corner(rectangle.max()))
    }

    /// The middle of the cell.
    pub fn centre(&self) -> Location {
        let (low, high) = self.bounds();
        Location {
            latitude: f64::midpoint(low.latitude, high.latitude),
            longitude: f64::midpoint(low.longitude, high.longitude),
        }
    }

    /// Distance in km from `location` to the nearest point of the cell, 0 inside.
    ///
    /// Along a parallel the distance grows with the difference of longitude, so the nearest point lies on the
    /// location's own meridian where the cell has it, and else on the nearer of the cell's two meridians: at a corner,
    /// or where the great circle from the location meets that meridian at a right angle.
    pub fn distance_km(&self, location: &Location) -> f64 {
        let (low, high) = self.bounds();
        if (low.longitude..=high.longitude).contains(&location.longitude) {
            let latitude = location.latitude.clamp(low.latitude, high.latitude);
            return location.distance_km(&Location { latitude, longitude: location.longitude });
        }
        // The nearer meridian, around the antimeridian too.
        let gap = |edge: f64| {
            let difference = (location.longitude - edge).rem_euclid(360.0);
            difference.min(360.0 - difference)
        };
        let longitude = if gap(low.longitude) <= gap(high.longitude) { low.longitude } else { high.longitude };
        let (sin, cos) = location.latitude.to_radians().sin_cos();
        let foot = sin.atan2(cos * gap(longitude).to_radians().cos()).to_degrees();
        [low.latitude, high.latitude, foot.clamp(low.latitude, high.latitude)]
            .into_iter()
            .map(|latitude| location.distance_km(&Location { latitude, longitude }))
            .fold(f64::INFINITY, f64::min)
    }

    /// The cells that touch this one, at most eight (fewer at the poles), in a fixed order.
    pub fn neighbours(&self) -> Vec<Self> {
        let (low, high) = self.bounds();
        let (height, width) = (high.latitude - low.latitude, high.longitude - low.longitude);
        let centre = self.centre();
        let mut cells = BTreeSet::new();
        for (rows, columns) in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)] {
            let latitude = centre.latitude + f64::from(rows) * height;
            let longitude = centre.longitude + f64::from(columns) * width;
            if (-90.0..=90.0).contains(&latitude) {
                let longitude = (longitude + 180.0).rem_euclid(360.0) - 180.0;
                cells.insert(Self::at(&Location { latitude, longitude }, self.precision));
            }
        }
        cells.remove(self);
        cells.into_iter().collect()
    }

    /// Cells of the same precision at `radius` steps: ring 0 is the cell itself, ring 1 its neighbours, ring 2
    /// theirs that are in neither, and so on.
    pub fn ring(&self, radius: u32) -> Vec<Self> {
        let mut inside = BTreeSet::from([*self]);
        let mut ring = vec![*self];
        for _ in 0..radius {
            let next: BTreeSet<Self> =
                ring.iter().flat_map(Self::neighbours).filter(|cell| !inside.contains(cell)).collect();
            inside.extend(&next);
            ring = next.into_iter().collect();
        }
        ring
    }

    /// The cell and all coarser ones down to [`COARSEST`], finest first: the keys a provider announces.
    pub fn ancestry(&self) -> Vec<Self> {
        (COARSEST..=self.precision).rev().map(|precision| self.coarsened(precision)).collect()
    }

    /// The key of the cell's provider records in the DHT of `network`.
    pub fn dht_key(&self, network: &NetworkId) -> Vec<u8> {
        format!("/aitbc/{network}/cell/{self}").into_bytes()
    }

    /// The cell behind a DHT key of `network`; `None` for anything else.
    pub fn from_dht_key(network: &NetworkId, key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        Self::from_text(text.strip_prefix("/aitbc/")?.strip_prefix(network.as_str())?.strip_prefix("/cell/")?)
    }

    /// The gossip topic of the cell.
    pub fn topic(&self, network: &NetworkId) -> String {
        format!("/aitbc/{network}/offers/{self}")
    }

    /// The cell behind a gossip topic of `network`; `None` for anything else, and for cells too fine to have one.
    pub fn from_topic(network: &NetworkId, topic: &str) -> Option<Self> {
        Self::from_text(topic.strip_prefix("/aitbc/")?.strip_prefix(network.as_str())?.strip_prefix("/offers/")?)
            .filter(|cell| cell.precision <= FINEST_TOPIC)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cell({self})")
    }
}

impl FromStr for Cell {
    type Err = GeoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_text(text).ok_or_else(|| GeoError::Cell(text.chars().take(32).collect()))
    }
}

impl Serialize for Cell {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Line::<{ FINEST as usize }>::deserialize(deserializer)?;
        text.as_str().parse().map_err(de::Error::custom)
    }
}

/// One step of a search by place: cells to look up together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchStep {
    /// Precision of the cells.
    pub precision: u8,
    /// Steps from the client's own cell.
    pub ring: u32,
    /// Cells not covered by an earlier step of this precision, nearest first; never empty.
    pub cells: Vec<Cell>,
}

/// The order in which a client looks for providers: its own cell, then ring by ring, then the same at the next
/// coarser precision, over the whole earth if need be; it ends where light in fibre cannot meet `budget_ms` any more.
///
/// `start` is the finest precision looked up (providers announce at [`DEFAULT_PRECISION`] unless they choose
/// otherwise). Each precision is searched for `rings` rings, the coarsest without limit: there every cell within the
/// budget comes up exactly once.
pub fn search_plan(
    location: Location,
    start: u8,
    rings: u32,
    budget_ms: f64,
) -> impl Iterator<Item = SearchStep> + Send {
    let precisions = (COARSEST..=start.clamp(COARSEST, FINEST)).rev();
    precisions.flat_map(move |precision| {
        let limit = if precision == COARSEST { u32::MAX } else { rings };
        rings_within(location, precision, budget_ms).zip(0..=limit).map(move |(cells, ring)| SearchStep {
            precision,
            ring,
            cells,
        })
    })
}

/// Rings around `location` at one precision, each cut to the cells within the budget, nearest first.
///
/// The cells within the budget are those that touch a disk on the sphere. A disk is connected, so walking from
/// touching cell to touching cell misses none, and what lies behind a cell outside need not be looked at.
fn rings_within(location: Location, precision: u8, budget_ms: f64) -> impl Iterator<Item = Vec<Cell>> + Send {
    let mut seen = BTreeSet::new();
    let mut ring = Vec::new();
    std::iter::from_fn(move || {
        let walked: BTreeSet<Cell> = if seen.is_empty() {
            BTreeSet::from([Cell::at(&location, precision)])
        } else {
            ring.iter().flat_map(Cell::neighbours).filter(|cell| !seen.contains(cell)).collect()
        };
        let mut cells: Vec<(f64, Cell)> = walked
            .iter()
            .map(|cell| (cell.distance_km(&location), *cell))
            .filter(|(km, _)| least_round_trip_ms(*km) <= budget_ms)
            .collect();
        seen.extend(walked);
        cells.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        ring = cells.into_iter().map(|(_, cell)| cell).collect();
        (!ring.is_empty()).then(|| ring.clone())
    })
}

#[cfg(test)]
mod tests;
