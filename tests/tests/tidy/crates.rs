//! Who may know whom: the crate graph, and what the pure crates must not pull in through others.
//!
//! The graph is the design's strongest statement: policy and storage know nobody, the ledger knows no medicine, and
//! what the simulator runs has neither sockets nor disks. It is held here because a manifest is easily edited.

use std::process::Command;

use crate::tree::Tree;

/// Crate, and those of ours that it may depend on. Development dependencies are held to the same.
const MAY_KNOW: [(&str, &[&str]); 7] = [
    ("policy", &[]),
    ("storage", &[]),
    ("consensus", &["storage"]),
    ("federation", &["policy", "storage", "consensus"]),
    ("simnet", &["policy", "storage", "consensus", "federation"]),
    ("node", &["policy", "storage", "consensus", "federation"]),
    ("tests", &[]),
];

/// Features that bring the outer world in; the simulator builds without them.
const WORLDLY_FEATURES: [&str; 4] = ["default", "rocksdb", "grpc", "net"];

/// Packages whose presence means sockets or a disk engine.
const WORLDLY_PACKAGES: [&str; 9] =
    ["mio", "socket2", "tonic", "hyper", "libp2p", "rustls", "rocksdb", "librocksdb-sys", "axum"];

const OURS: &str = "tessera-";
const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub fn forbidden_dependencies(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (name, manifest) in tree.crates() {
        let (_, allowed) = MAY_KNOW.iter().find(|(of, _)| *of == name).expect("every crate has a row");
        for (section, dependency, value) in dependencies(&manifest) {
            let Some(known) = dependency.strip_prefix(OURS) else { continue };
            if !allowed.contains(&known) {
                found.push(format!("{name}/Cargo.toml: [{section}] {dependency}: {name} may know only {allowed:?}"));
            }
            if name == "simnet" {
                found.extend(worldly_features(&section, &dependency, &value));
            }
        }
    }
    found.extend(defaults_left_on(&tree.manifest("Cargo.toml")));
    found
}

/// All dependencies of a manifest, those for one platform included.
fn dependencies(manifest: &toml::Table) -> Vec<(String, String, toml::Value)> {
    let mut all = Vec::new();
    let mut take = |prefix: &str, table: &toml::Table| {
        for section in SECTIONS {
            for (name, value) in table.get(section).and_then(|t| t.as_table()).into_iter().flatten() {
                all.push((format!("{prefix}{section}"), name.clone(), value.clone()));
            }
        }
    };
    take("", manifest);
    for (target, table) in manifest.get("target").and_then(|t| t.as_table()).into_iter().flatten() {
        take(&format!("target.{target}."), table.as_table().expect("cargo reads a table here"));
    }
    all
}

fn worldly_features(section: &str, dependency: &str, value: &toml::Value) -> Vec<String> {
    let features = value.get("features").and_then(|f| f.as_array()).cloned().unwrap_or_default();
    let mut found: Vec<String> = features
        .iter()
        .filter_map(|feature| feature.as_str())
        .filter(|feature| WORLDLY_FEATURES.contains(feature))
        .map(|feature| format!("simnet/Cargo.toml: [{section}] {dependency}: feature {feature} brings the world in"))
        .collect();
    if value.get("default-features").and_then(|d| d.as_bool()) == Some(true) {
        found.push(format!("simnet/Cargo.toml: [{section}] {dependency}: default features must be off"));
    }
    found
}

/// Inherited dependencies can turn default features on, never off: so the workspace has them off.
fn defaults_left_on(workspace: &toml::Table) -> Vec<String> {
    let shared = workspace["workspace"]["dependencies"].as_table().expect("cargo reads a table here");
    ["storage", "consensus", "federation"]
        .iter()
        .filter(|name| {
            let entry = shared.get(&format!("{OURS}{name}"));
            entry.and_then(|e| e.get("default-features")).and_then(|d| d.as_bool()) != Some(false)
        })
        .map(|name| format!("Cargo.toml: {OURS}{name} needs default-features = false"))
        .collect()
}

pub fn not_inherited(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (name, manifest) in tree.crates() {
        let inherits = |table: &str, key: &str| {
            let value = manifest.get(table).and_then(|t| t.get(key));
            value.and_then(|v| v.get("workspace").or(Some(v))).and_then(|v| v.as_bool()) == Some(true)
        };
        if !inherits("lints", "workspace") {
            found.push(format!("{name}/Cargo.toml: [lints] workspace = true is missing"));
        }
        for key in ["version", "edition", "rust-version", "license"] {
            if !inherits("package", key) {
                found.push(format!("{name}/Cargo.toml: {key}.workspace = true is missing"));
            }
        }
    }
    found
}

/// Asks cargo itself, since features and what others pull in can't be read off a manifest.
pub fn forbidden_packages(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["policy", "simnet"] {
        let package = format!("{OURS}{name}");
        let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string()))
            .args(["tree", "--offline", "--locked", "--prefix", "none", "--edges", "normal,build", "-p", &package])
            .current_dir(&tree.root)
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo tree -p {package}: {}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
        assert!(listed.contains(&package), "cargo tree lists {package} itself: {listed}");
        found.extend(
            packages(&listed)
                .filter(|found| WORLDLY_PACKAGES.contains(found))
                .map(|found| format!("{package} pulls in {found}: see cargo tree -p {package} -i {found}")),
        );
    }
    found
}

fn packages(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| line.split(' ').next())
}

#[test]
fn finds_a_forbidden_edge() {
    let manifests = |policy: &str, simnet: &str, workspace: &str| {
        let mut files: Vec<(String, String)> =
            MAY_KNOW.iter().map(|(name, _)| (format!("{name}/Cargo.toml"), String::new())).collect();
        files.push(("policy/Cargo.toml".into(), policy.into()));
        files.push(("simnet/Cargo.toml".into(), simnet.into()));
        files.push(("Cargo.toml".into(), format!("[workspace.dependencies]\n{workspace}")));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        forbidden_dependencies(&Tree::of(&files))
    };
    let off = "tessera-storage = { default-features = false }\ntessera-consensus = { default-features = false }\n\
               tessera-federation = { default-features = false }";
    let table = [
        ("", "", off, 0),
        ("[dependencies]\ntessera-storage.workspace = true", "", off, 1),
        ("[target.'cfg(unix)'.dev-dependencies]\ntessera-node = { path = '../node' }", "", off, 1),
        ("", "[dependencies]\ntessera-consensus.workspace = true", off, 0),
        ("", "[dependencies]\ntessera-consensus = { workspace = true, features = ['grpc'] }", off, 1),
        ("", "[dependencies]\ntessera-consensus = { workspace = true, default-features = true }", off, 1),
        ("", "", "tessera-storage = { path = 'storage' }", 3),
    ];
    for (policy, simnet, workspace, expected) in table {
        let found = manifests(policy, simnet, workspace);
        assert_eq!(found.len(), expected, "{policy:?} {simnet:?} {workspace:?} -> {found:?}");
    }
}

#[test]
fn reads_names_off_cargo_tree() {
    let listed = "tessera-simnet v0.1.0 (/somewhere)\nmio v1.0.0\nmio v1.0.0 (*)\n";
    assert_eq!(packages(listed).collect::<Vec<_>>(), ["tessera-simnet", "mio", "mio"]);
}
