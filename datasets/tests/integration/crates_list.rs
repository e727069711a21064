//! The committed list of crates against what cargo says that builds unpack.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use datasets::source::crates::{compatible_version, entries, listed};
use datasets::{Split, TokenizerSpec};

use crate::support::prepared;

/// One of each kind of platform that we build on. What all of these unpack, every build does.
const TARGETS: [&str; 5] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
];

/// The registry crates of a build of the binary for one platform, or what cargo says when it does not know them: crates of other
/// platforms are on a machine only after `cargo fetch`, and this test downloads nothing.
fn unpacked(target: &str) -> Result<BTreeSet<String>, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "harness",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args([
            "--format",
            "{p}",
            "--offline",
            "--locked",
            "--target",
            target,
        ])
        .current_dir(workspace)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            let (version, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            // A path in brackets: a member of this workspace.
            (!rest.contains('/')).then(|| format!("{name}@{}", compatible_version(version)))
        })
        .collect())
}

/// A crate that the program comes to depend on later is not added: the default text, and every figure measured on it, would
/// change with it.
#[test]
fn the_list_names_only_crates_that_every_build_unpacks() {
    let known: Vec<_> = TARGETS
        .iter()
        .map(|target| (target, unpacked(target)))
        .collect();
    let found: Vec<&BTreeSet<String>> = known
        .iter()
        .filter_map(|(_, set)| set.as_ref().ok())
        .collect();
    let whole = found.len() == TARGETS.len();
    let (first, others) = found
        .split_first()
        .expect("cargo knows at least the platform that it built this test for");
    let common: BTreeSet<String> = first
        .iter()
        .filter(|entry| others.iter().all(|set| set.contains(*entry)))
        .cloned()
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source/crates.list");
    if std::env::var_os("UPDATE_CRATES_LIST").is_some() {
        assert!(whole, "run `cargo fetch --locked` first: {known:?}");
        let text = std::fs::read_to_string(&path).unwrap();
        let header = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .map(str::to_owned);
        let lines: Vec<String> = header.chain(common).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let list: BTreeSet<String> = entries().map(str::to_owned).collect();
    let beyond: Vec<_> = list.difference(&common).collect();
    assert!(
        beyond.is_empty(),
        "the list names crates that some build does not unpack, {beyond:?}; take them off, or write it again: \
         `cargo fetch --locked && UPDATE_CRATES_LIST=1 cargo test -p datasets --test integration crates_list`"
    );
    assert_eq!(listed().unwrap().len(), list.len());
}

#[test]
fn the_default_text_is_megabytes_of_prose_and_divides() {
    let cache = tempfile::tempdir().unwrap();
    let spec = datasets::DataSpec {
        source: datasets::SourceSpec::Crates {
            limit_bytes: Some(1 << 20),
        },
        tokenizer: TokenizerSpec::Train { vocabulary: 512 },
        validation: datasets::ValidationSpec {
            share: 0.05,
            maximum_tokens: None,
        },
        bad_line_share: 0.0,
    };
    let store = prepared(&spec, cache.path()).unwrap();
    let bytes = store.manifest().training.text_bytes + store.validation_text_bytes();
    // The limit is met within the document that reaches it, and none is longer than twice 16 KiB.
    assert!(
        (1 << 20..(1 << 20) + (32 << 10)).contains(&bytes),
        "{bytes}"
    );
    assert_eq!(store.vocabulary(), 512);
    assert!(store.documents(Split::Validation) > 10);
    let tokenizer = tokenizers::Tokenizer::from_file(store.tokenizer_path()).unwrap();
    let mut tokens = Vec::new();
    let range = store.document(Split::Training, 0).unwrap();
    store.read(Split::Training, range, &mut tokens).unwrap();
    let text = tokenizer.decode(&tokens, true).unwrap();
    let letters = text
        .chars()
        .filter(|c| c.is_ascii_alphabetic() || *c == ' ')
        .count();
    assert!(letters * 10 > text.len() * 8, "{text}");
}
