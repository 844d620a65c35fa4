//! The digest against a plain sum over a map, and its golden roots.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn digest_of<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> StateDigest {
    let mut digest = StateDigest::new();
    pairs.into_iter().for_each(|(key, value)| digest.update(key, None, Some(value)));
    digest
}

fn digest_of_map(map: &Map) -> StateDigest {
    digest_of(map.iter().map(|(k, v)| (k.as_slice(), v.as_slice())))
}

/// The digest as the module's header defines it, without lanes in words, increments or kept paths.
fn naive_root(map: &Map) -> Hash {
    let mut sums = vec![vec![0u16; 1024]; 1024];
    for (key, value) in map {
        let mut input = b"tessera/v1/state-pair\0".to_vec();
        for part in [key, value] {
            input.extend((part.len() as u64).to_le_bytes());
            input.extend(part);
        }
        let mut lanes = [0; 2048];
        blake3::Hasher::new().update(&input).finalize_xof().fill(&mut lanes);
        let hash = blake3::hash(key);
        let bucket = u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]) >> 6;
        for (sum, lane) in sums[usize::from(bucket)].iter_mut().zip(lanes.chunks(2)) {
            *sum = sum.wrapping_add(u16::from_le_bytes([lane[0], lane[1]]));
        }
    }
    let mut level: Vec<Hash> = sums
        .iter()
        .map(|sum| {
            let bytes: Vec<u8> = sum.iter().flat_map(|lane| lane.to_le_bytes()).collect();
            Hash::blake3(&[b"tessera/v1/state-bucket\0", &bytes])
        })
        .collect();
    while level.len() > 1 {
        let join = |pair: &[Hash]| Hash::blake3(&[b"tessera/v1/state-node\0", pair[0].as_bytes(), pair[1].as_bytes()]);
        level = level.chunks(2).map(join).collect();
    }
    level[0]
}

#[test]
fn golden_roots_hold_the_format_still() {
    let roots = [
        StateDigest::new().root(),
        digest_of([(&b"key"[..], &b"value"[..])]).root(),
        digest_of([(&b"key"[..], &b"value"[..]), (b"", b""), (b"other key", b"other value")]).root(),
    ];
    let golden = [
        "blake3:c2fa111841fb8a62a95c2563b597976a07a0e398427644a6b4113502e5084dfe",
        "blake3:14b978b544d63c19b3cbe94d9ba3e227d40d513d92f3be8331289d544016481a",
        "blake3:cf58e196da931f36c9cde6e463478dc5a696dbb11d15eb722a240ac6f4d632f4",
    ];
    assert_eq!(roots.map(|root| root.to_string()), golden);
}

#[test]
fn lanes_wrap_alone() {
    let lanes = [0u16, 1, 2, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff];
    let word = |[a, b, c, d]: [u16; 4]| u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
    for a in lanes {
        for b in lanes {
            for c in lanes {
                let (x, y) = (word([a, b, c, a]), word([b, c, a, a]));
                let sum = [a.wrapping_add(b), b.wrapping_add(c), c.wrapping_add(a), a.wrapping_add(a)];
                assert_eq!(add_lanes(x, y), word(sum));
                assert_eq!(subtract_lanes(x, y), word([a.wrapping_sub(b), b.wrapping_sub(c), c.wrapping_sub(a), 0]));
            }
        }
    }
}

#[test]
fn framing_tells_key_from_value() {
    let bucket = |key: &[u8], value: &[u8]| {
        let mut sum = BucketSum::default();
        sum.add(key, value);
        sum
    };
    let pairs: [(&[u8], &[u8]); 6] =
        [(b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"", b"abc"), (b"", b""), (b"\0", b"")];
    for (i, (key, value)) in pairs.iter().enumerate() {
        for (other_key, other_value) in &pairs[i + 1..] {
            assert_ne!(bucket(key, value), bucket(other_key, other_value));
        }
    }
}

#[test]
fn kept_buckets_bring_the_digest_back() {
    let mut digest = digest_of([(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"c", b"3")]);
    let changed = digest.take_changed();
    assert_eq!(changed.len(), 3);
    assert_eq!(digest.take_changed(), []);
    let kept: Vec<_> = changed.iter().map(|bucket| (*bucket, digest.bucket(*bucket).to_vec())).collect();
    let mut again = StateDigest::from_buckets(kept.clone()).unwrap();
    assert_eq!(again.root(), digest.root());
    assert_eq!(again.take_changed(), []);
    let first = kept[0].0;
    assert_eq!(
        StateDigest::from_buckets([(first, vec![0; 2047])]).unwrap_err(),
        BucketError::Length { bucket: first, got: 2047 }
    );
    assert_eq!(StateDigest::from_buckets([kept[0].clone(), kept[0].clone()]).unwrap_err(), BucketError::Twice(first));
}

#[test]
fn a_snapshot_is_checked_bucket_by_bucket() {
    let mut digest = digest_of([(&b"a"[..], &b"1"[..]), (b"b", b"2")]);
    let hashes = digest.bucket_hashes();
    assert_eq!(root_of_bucket_hashes(&hashes), Some(digest.root()));
    let mut sum = BucketSum::default();
    sum.add(b"a", b"1");
    assert_eq!(sum.hash(), hashes[usize::from(BucketNumber::of_key(b"a").get())]);
    assert_eq!(root_of_bucket_hashes(&hashes[1..]), None);
    let mut foreign = hashes.clone();
    foreign[7] = Hash::sha256(&[]);
    assert_eq!(root_of_bucket_hashes(&foreign), None);
    foreign[7] = Hash::blake3(&[]);
    assert_ne!(root_of_bucket_hashes(&foreign), Some(digest.root()));
}

#[test]
fn a_flipped_byte_in_a_snapshots_bucket_names_the_bucket() {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = (0..200u16).map(|n| (n.to_be_bytes().to_vec(), vec![7; 30])).collect();
    let certified = digest_of(pairs.iter().map(|(k, v)| (k.as_slice(), v.as_slice()))).bucket_hashes();
    for (place, (key, _)) in pairs.iter().enumerate().step_by(23) {
        for byte in [0, 29] {
            let mut sent = pairs.clone();
            sent[place].1[byte] ^= 1;
            let wrong: Vec<u16> = BucketNumber::all()
                .filter(|bucket| {
                    let mut sum = BucketSum::default();
                    let here = sent.iter().filter(|(key, _)| BucketNumber::of_key(key) == *bucket);
                    here.for_each(|(key, value)| sum.add(key, value));
                    sum.hash() != certified[usize::from(bucket.get())]
                })
                .map(BucketNumber::get)
                .collect();
            assert_eq!(wrong, [BucketNumber::of_key(key).get()], "pair {place}, byte {byte}");
        }
    }
}

#[test]
fn bucket_numbers_are_bounded() {
    assert_eq!(BucketNumber::new(1023).map(BucketNumber::get), Some(1023));
    assert_eq!(BucketNumber::new(1024), None);
    assert_eq!(BucketNumber::all().count(), BUCKETS);
}

fn small_map() -> impl Strategy<Value = Map> {
    prop::collection::btree_map(
        prop::collection::vec(any::<u8>(), 0..8),
        prop::collection::vec(any::<u8>(), 0..40),
        0..24,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_digest_is_a_function_of_the_map(map in small_map(), order in any::<u64>()) {
        let mut pairs: Vec<_> = map.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
        pairs.sort_by_key(|(key, _)| blake3::hash(&[&order.to_le_bytes(), *key].concat()).to_hex());
        prop_assert_eq!(digest_of(pairs).root(), naive_root(&map));
    }

    #[test]
    fn any_history_that_ends_in_a_map_ends_in_its_digest(
        writes in prop::collection::vec((0u8..12, prop::option::of(any::<u8>())), 0..80),
        asked in prop::collection::vec(any::<bool>(), 80),
    ) {
        let (mut digest, mut map) = (StateDigest::new(), Map::new());
        for ((key, value), asked) in writes.into_iter().zip(asked) {
            let (key, value) = (vec![key], value.map(|byte| vec![byte]));
            let old = match &value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(&key),
            };
            digest.update(&key, old.as_deref(), value.as_deref());
            if asked {
                digest.root();
            }
        }
        prop_assert_eq!(digest.root(), digest_of_map(&map).root());
    }

    #[test]
    fn what_is_added_and_removed_leaves_nothing(map in small_map()) {
        let mut digest = digest_of_map(&map);
        map.iter().for_each(|(key, value)| digest.update(key, Some(value), None));
        prop_assert_eq!(digest.root(), StateDigest::new().root());
        prop_assert!(BucketNumber::all().all(|bucket| digest.bucket(bucket) == EMPTY_BUCKET));
    }

    #[test]
    fn a_difference_is_seen_and_located(map in small_map(), key in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut digest = digest_of_map(&map);
        let mut other = digest.clone();
        prop_assert_eq!(digest.compare(&mut other), []);
        let old = map.get(&key).map(Vec::as_slice);
        other.update(&key, old, Some(b"a value that no other case has, being longer than forty bytes"));
        prop_assert_eq!(digest.compare(&mut other), [BucketNumber::of_key(&key)]);
        prop_assert_ne!(digest.root(), other.root());
    }
}
