use super::*;
use crate::fixture::FIXTURE;

#[test]
fn keys_go_round_and_damage_is_seen() {
    let bytes = FIXTURE.key.to_bytes();
    assert_eq!(bytes.len(), ProvingKey::size());
    assert!(bytes.len() <= MAX_PROVING_KEY);
    assert_eq!(ProvingKey::from_bytes(&bytes).unwrap(), FIXTURE.key);
    assert_eq!(FIXTURE.key.origin(), Origin::Development);

    let verifying = FIXTURE.key.verifying_key();
    let small = verifying.to_bytes();
    assert_eq!(VerifyingKey::from_bytes(&small).unwrap(), verifying);
    assert_eq!(VerifyingKey::from_bytes(&bytes), Err(KeyError::Header));
    assert_eq!(ProvingKey::from_bytes(&small), Err(KeyError::Header));
    let expected = VerifyingKey::size();
    let cut = &small[..expected - 1];
    assert_eq!(VerifyingKey::from_bytes(cut), Err(KeyError::Length { expected, found: expected - 1 }));
    for place in [0, 15, 16 + 31, 16 + 32 + 63, expected - 1] {
        let mut damaged = small.clone();
        damaged[place] ^= 0xff;
        assert!(VerifyingKey::from_bytes(&damaged).is_err(), "{place}");
    }
    assert_eq!(VerifyingKey::from_bytes(&[]), Err(KeyError::Header));
}

#[test]
fn the_page_says_what_each_part_takes() {
    let page = include_str!("../../../docs/zero-knowledge.md");
    let rows: Vec<(String, usize)> = page
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let count = cells.get(1)?.replace(',', "").parse().ok()?;
            (line.starts_with('|') && cells.len() == 3).then(|| (cells[0].to_owned(), count))
        })
        .collect();
    let mut expected: Vec<(String, usize)> =
        Relation::attestation_parts().iter().map(|part| (part.name.to_owned(), part.constraints)).collect();
    let total = Relation::attestation().constraints();
    assert_eq!(expected.iter().map(|(_, count)| count).sum::<usize>(), total);
    assert!(total <= circuit::MAX_CONSTRAINTS);
    expected.push(("all".to_owned(), total));
    assert_eq!(rows, expected);
}
