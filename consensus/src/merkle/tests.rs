//! The tree against a naive recursive reading of RFC 6962, the known roots, and every single-bit change of a proof.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Nodes in memory; asking for one that was never completed is an error.
#[derive(Default)]
struct MemoryNodes(BTreeMap<(u8, u64), Hash>);

impl NodeStore for MemoryNodes {
    type Error = (u8, u64);
    fn node(&self, level: u8, index: u64) -> Result<Hash, (u8, u64)> {
        self.0.get(&(level, index)).copied().ok_or((level, index))
    }
}

fn leaves(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("leaf {i}").into_bytes()).collect()
}

fn grow(leaves: &[Vec<u8>]) -> (MemoryNodes, Frontier) {
    let (mut nodes, mut frontier) = (MemoryNodes::default(), Frontier::new());
    for leaf in leaves {
        for (level, index, hash) in frontier.push(leaf_hash(leaf)) {
            assert_eq!(nodes.0.insert((level, index), hash), None, "a node is completed once");
        }
    }
    (nodes, frontier)
}

/// MTH of RFC 6962 section 2.1, word by word.
fn naive_root(leaves: &[Vec<u8>]) -> Hash {
    match leaves {
        [] => Hash::sha256(&[b""]),
        [one] => Hash::sha256(&[&[0], one]),
        more => {
            let (left, right) = more.split_at(naive_split(more.len()));
            Hash::sha256(&[&[1], naive_root(left).as_bytes(), naive_root(right).as_bytes()])
        }
    }
}

fn naive_split(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// PATH of RFC 6962 section 2.1.1.
fn naive_path(m: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = naive_split(leaves.len());
    let (mut path, last) = if m < k {
        (naive_path(m, &leaves[..k]), naive_root(&leaves[k..]))
    } else {
        (naive_path(m - k, &leaves[k..]), naive_root(&leaves[..k]))
    };
    path.push(last);
    path
}

/// SUBPROOF of RFC 6962 section 2.1.2.
fn naive_subproof(m: usize, leaves: &[Vec<u8>], whole: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if whole { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let k = naive_split(leaves.len());
    let (mut proof, last) = if m <= k {
        (naive_subproof(m, &leaves[..k], whole), naive_root(&leaves[k..]))
    } else {
        (naive_subproof(m - k, &leaves[k..], false), naive_root(&leaves[..k]))
    };
    proof.push(last);
    proof
}

fn flips(hash: Hash) -> impl Iterator<Item = Hash> {
    (0..256).map(move |bit: usize| {
        let mut bytes = *hash.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Hash::from_parts(hash.algorithm(), bytes)
    })
}

#[test]
fn known_roots_of_the_certificate_transparency_test_leaves() {
    let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::new();
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(frontier.root().to_string(), format!("sha256:{root}"), "size {size}");
        if let Some(input) = inputs.get(size) {
            frontier.push(leaf_hash(&data_encoding::HEXLOWER.decode(input.as_bytes()).unwrap()));
        }
    }
}

#[test]
fn every_proof_of_small_trees_is_the_reference_proof_and_verifies() {
    let all = leaves(40);
    let (nodes, _) = grow(&all);
    for size in 0..=all.len() {
        let tree = &all[..size];
        let (to, root) = (LedgerSize(size as u64), naive_root(tree));
        assert_eq!(root_at(&nodes, to), Ok(root));
        assert_eq!(Frontier::load(&nodes, to).unwrap(), grow(tree).1);
        for (index, leaf) in tree.iter().enumerate() {
            let at = LedgerIndex(index as u64);
            let proof = inclusion_proof(&nodes, at, to).unwrap();
            assert_eq!(proof, naive_path(index, tree));
            assert_eq!(verify_inclusion(&leaf_hash(leaf), at, to, &proof, &root), Ok(()));
        }
        for old in 0..=size {
            let (from, old_root) = (LedgerSize(old as u64), naive_root(&all[..old]));
            let proof = consistency_proof(&nodes, from, to).unwrap();
            let expected = if old == 0 { Vec::new() } else { naive_subproof(old, tree, true) };
            assert_eq!(proof, expected, "{old} to {size}");
            assert_eq!(verify_consistency(from, &old_root, to, &root, &proof), Ok(()), "{old} to {size}");
        }
    }
}

#[test]
fn every_bit_of_an_inclusion_proof_counts() {
    let all = leaves(21);
    let (nodes, frontier) = grow(&all);
    let (size, root) = (frontier.size(), frontier.root());
    for index in (0..size.0).map(LedgerIndex) {
        let leaf = leaf_hash(&all[index.0 as usize]);
        let proof = inclusion_proof(&nodes, index, size).unwrap();
        let refused = |leaf: &Hash, index, size, proof: &[Hash], root: &Hash| {
            assert!(verify_inclusion(leaf, index, size, proof, root).is_err());
        };
        flips(leaf).for_each(|leaf| refused(&leaf, index, size, &proof, &root));
        flips(root).for_each(|root| refused(&leaf, index, size, &proof, &root));
        for at in 0..proof.len() {
            for flipped in flips(proof[at]) {
                let mut proof = proof.clone();
                proof[at] = flipped;
                refused(&leaf, index, size, &proof, &root);
            }
        }
        (0..24).map(LedgerIndex).filter(|i| *i != index).for_each(|i| refused(&leaf, i, size, &proof, &root));
        refused(&leaf, index, size, &proof[1..], &root);
        refused(&leaf, index, size, &proof[..proof.len() - 1], &root);
        refused(&leaf, index, size, &[&proof[..], &[root]].concat(), &root);
    }
}

#[test]
fn every_bit_of_a_consistency_proof_counts() {
    let all = leaves(21);
    let (nodes, frontier) = grow(&all);
    let (to, root) = (frontier.size(), frontier.root());
    for from in (1..to.0).map(LedgerSize) {
        let old_root = root_at(&nodes, from).unwrap();
        let proof = consistency_proof(&nodes, from, to).unwrap();
        let refused = |old_root: &Hash, root: &Hash, proof: &[Hash]| {
            assert!(verify_consistency(from, old_root, to, root, proof).is_err());
        };
        flips(old_root).for_each(|old_root| refused(&old_root, &root, &proof));
        flips(root).for_each(|root| refused(&old_root, &root, &proof));
        for at in 0..proof.len() {
            for flipped in flips(proof[at]) {
                let mut proof = proof.clone();
                proof[at] = flipped;
                refused(&old_root, &root, &proof);
            }
        }
        refused(&old_root, &root, &proof[1..]);
        refused(&old_root, &root, &proof[..proof.len() - 1]);
        refused(&old_root, &root, &[&proof[..], &[root]].concat());
    }
}

#[test]
fn impossible_sizes_and_foreign_hashes_are_refused_by_name() {
    let sha = Hash::sha256(&[b"x"]);
    let blake = Hash::blake3(&[b"x"]);
    let (one, two, huge) = (LedgerSize(1), LedgerSize(2), LedgerSize(u64::MAX));
    let inclusion = |leaf, index, size, proof: &[Hash]| verify_inclusion(leaf, LedgerIndex(index), size, proof, &sha);
    assert_eq!(inclusion(&sha, 1, one, &[]), Err(VerifyError::NotInTree { index: 1, size: 1 }));
    assert_eq!(inclusion(&sha, 0, huge, &[]), Err(VerifyError::TooLarge(u64::MAX)));
    assert_eq!(inclusion(&sha, 0, two, &[sha; 65]), Err(VerifyError::ProofLength(65)));
    assert_eq!(inclusion(&blake, 0, one, &[]), Err(VerifyError::Algorithm));
    assert_eq!(inclusion(&sha, 0, two, &[blake]), Err(VerifyError::Algorithm));
    assert_eq!(inclusion(&sha, 0, one, &[]), Ok(()));
    let consistency = |from, to, proof: &[Hash]| verify_consistency(from, &sha, to, &sha, proof);
    assert_eq!(consistency(two, one, &[]), Err(VerifyError::NotAnExtension { from: 2, to: 1 }));
    assert_eq!(consistency(one, huge, &[]), Err(VerifyError::TooLarge(u64::MAX)));
    assert_eq!(consistency(LedgerSize(0), one, &[]), Err(VerifyError::OldRoot));
    assert_eq!(consistency(LedgerSize(3), LedgerSize(4), &[]), Err(VerifyError::ProofLength(0)));
    assert_eq!(consistency(one, one, &[sha]), Err(VerifyError::ProofLength(1)));
    assert_eq!(consistency(one, one, &[]), Ok(()));
    let nodes = MemoryNodes::default();
    assert_eq!(inclusion_proof(&nodes, LedgerIndex(2), two), Err(ProveError::NotInTree { index: 2, size: 2 }));
    assert_eq!(inclusion_proof(&nodes, LedgerIndex(0), two), Err(ProveError::Store((0, 1))));
    assert_eq!(consistency_proof(&nodes, two, one), Err(ProveError::NotAnExtension { from: 2, to: 1 }));
    assert_eq!(root_at(&nodes, huge), Err(ProveError::TooLarge(u64::MAX)));
}

#[test]
fn a_frontier_survives_encoding_and_a_false_one_is_refused() {
    let (_, frontier) = grow(&leaves(13));
    let bytes = postcard::to_stdvec(&frontier).unwrap();
    assert_eq!(postcard::from_bytes::<Frontier>(&bytes).unwrap(), frontier);
    let false_ones = [
        FrontierWire { size: 13, peaks: vec![empty_root(); 2] },
        FrontierWire { size: 1, peaks: vec![Hash::blake3(&[])] },
        FrontierWire { size: TREE_LEAVES_MAX + 1, peaks: vec![empty_root(); 2] },
    ];
    for wire in false_ones {
        assert!(postcard::from_bytes::<Frontier>(&postcard::to_stdvec(&wire).unwrap()).is_err());
    }
}

proptest! {
    /// Whatever the proof, the verifiers answer; and what they accept is what the tree holds.
    #[test]
    fn verifiers_never_panic(
        index: u64, size: u64, from: u64, to: u64,
        proof in prop::collection::vec(any::<[u8; 32]>(), 0..70),
    ) {
        let proof: Vec<Hash> = proof.into_iter().map(|b| Hash::from_parts(HashAlgorithm::Sha256, b)).collect();
        let root = Hash::sha256(&[b"no such root"]);
        let leaf = leaf_hash(b"no such leaf");
        prop_assert!(verify_inclusion(&leaf, LedgerIndex(index), LedgerSize(size), &proof, &root).is_err());
        let consistency = verify_consistency(LedgerSize(from), &leaf, LedgerSize(to), &root, &proof);
        prop_assert!(consistency.is_err());
    }

    #[test]
    fn large_trees_agree_with_the_reference(size in 1usize..600, index: prop::sample::Index, old: prop::sample::Index) {
        let all = leaves(size as u64);
        let (nodes, frontier) = grow(&all);
        let root = naive_root(&all);
        prop_assert_eq!(frontier.root(), root);
        let (index, old) = (index.index(size), old.index(size) + 1);
        let path = inclusion_proof(&nodes, LedgerIndex(index as u64), frontier.size()).unwrap();
        prop_assert_eq!(&path, &naive_path(index, &all));
        let leaf = leaf_hash(&all[index]);
        prop_assert_eq!(verify_inclusion(&leaf, LedgerIndex(index as u64), frontier.size(), &path, &root), Ok(()));
        let from = LedgerSize(old as u64);
        let proof = consistency_proof(&nodes, from, frontier.size()).unwrap();
        prop_assert_eq!(&proof, &naive_subproof(old, &all, true));
        let old_root = naive_root(&all[..old]);
        prop_assert_eq!(verify_consistency(from, &old_root, frontier.size(), &root, &proof), Ok(()));
    }
}
