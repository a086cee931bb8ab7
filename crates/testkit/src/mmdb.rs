//! A small MMDB file (the format of MaxMind's databases, version 2.0), so that
//! tests of looking addresses up need no database of anybody's.
//!
//! A binary tree over the bits of IPv6 addresses, IPv4 at `::/96`, with records
//! of 24 bits; behind it the values, and the metadata behind their marker.

use std::net::IpAddr;

/// A network and where it is.
pub struct Place {
    /// An address of the network.
    pub address: IpAddr,
    /// Its leading bits.
    pub bits: u8,
    /// Degrees north and east; `None` writes a value without a location.
    pub location: Option<(f64, f64)>,
}

#[derive(Clone, Copy)]
enum Record {
    Empty,
    Node(usize),
    /// Index of the place.
    Value(usize),
}

/// The bytes of a database with these places. Of two that contain an address,
/// the smaller network counts.
pub fn database(places: &[Place]) -> Vec<u8> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|&at| prefix(&places[at]).1);
    let mut nodes = vec![[Record::Empty; 2]];
    for at in order {
        let (address, bits) = prefix(&places[at]);
        insert(&mut nodes, address, bits, at);
    }
    let mut values = Vec::new();
    let mut offsets = Vec::new();
    for place in places {
        offsets.push(values.len());
        value(&mut values, place.location);
    }
    let mut file = Vec::new();
    for record in nodes.iter().flatten() {
        let number = match *record {
            Record::Empty => nodes.len(),
            Record::Node(node) => node,
            Record::Value(place) => nodes.len() + 16 + offsets[place],
        };
        file.extend_from_slice(&(number as u32).to_be_bytes()[1..]);
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&values);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    metadata(&mut file, nodes.len() as u32);
    file
}

/// As an IPv6 address, its first bit highest, and how many bits count.
fn prefix(place: &Place) -> (u128, u32) {
    match place.address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 96 + u32::from(place.bits)),
        IpAddr::V6(v6) => (u128::from(v6), u32::from(place.bits)),
    }
}

fn insert(nodes: &mut Vec<[Record; 2]>, address: u128, bits: u32, place: usize) {
    let side = |depth: u32| (address >> (127 - depth) & 1) as usize;
    let mut node = 0;
    for depth in 0..bits.saturating_sub(1) {
        node = match nodes[node][side(depth)] {
            Record::Node(next) => next,
            // What a larger network says holds for the rest of it.
            found => {
                nodes.push([found; 2]);
                let next = nodes.len() - 1;
                nodes[node][side(depth)] = Record::Node(next);
                next
            }
        };
    }
    if let Some(last) = bits.checked_sub(1) {
        nodes[node][side(last)] = Record::Value(place);
    }
}

const TEXT: u8 = 2;
const DOUBLE: u8 = 3;
const U16: u8 = 5;
const U32: u8 = 6;
const MAP: u8 = 7;

fn control(out: &mut Vec<u8>, kind: u8, size: usize) {
    out.push(kind << 5 | size as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    control(out, TEXT, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn value(out: &mut Vec<u8>, location: Option<(f64, f64)>) {
    control(out, MAP, usize::from(location.is_some()));
    let Some((latitude, longitude)) = location else { return };
    text(out, "location");
    control(out, MAP, 2);
    for (name, degrees) in [("latitude", latitude), ("longitude", longitude)] {
        text(out, name);
        control(out, DOUBLE, 8);
        out.extend_from_slice(&degrees.to_be_bytes());
    }
}

fn metadata(out: &mut Vec<u8>, nodes: u32) {
    control(out, MAP, 9);
    text(out, "node_count");
    control(out, U32, 4);
    out.extend_from_slice(&nodes.to_be_bytes());
    for (name, number) in [
        ("record_size", 24u16),
        ("ip_version", 6),
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
    ] {
        text(out, name);
        control(out, U16, 2);
        out.extend_from_slice(&number.to_be_bytes());
    }
    text(out, "build_epoch");
    // A type above 7 stands in a byte of its own: a 64-bit number, then an array.
    out.extend_from_slice(&[8, 9 - 7]);
    out.extend_from_slice(&1_700_000_000u64.to_be_bytes());
    text(out, "database_type");
    text(out, "Test-City");
    text(out, "languages");
    out.extend_from_slice(&[0, 11 - 7]);
    text(out, "description");
    control(out, MAP, 0);
}
