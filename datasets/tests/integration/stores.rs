//! Stores: rebuilt identically, divided disjointly, built once, whole or not at all.

use std::collections::BTreeSet;
use std::sync::Barrier;

use datasets::store::Writer;
use datasets::tokenizer::Tokenizer;
use datasets::{BadLines, SourceSpec, Split, Store, TokenizerSpec};

use crate::support::{
    contents, documents, gzip, jsonl, prepared, spec, store_of, token_documents, write, zstandard,
};

#[test]
fn a_rebuilt_store_is_the_same_byte_for_byte_with_any_number_of_threads() {
    let text = tempfile::tempdir().unwrap();
    let path = write(text.path(), "corpus.jsonl", &jsonl(&documents(2_000)));
    let built = |threads: usize| {
        let cache = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let store = pool.install(|| prepared(&spec(&path).unwrap(), cache.path()).unwrap());
        contents(store.directory())
    };
    let once = built(1);
    assert_eq!(once.len(), 6, "manifest, tokenizer and two files a split");
    for threads in [1, 2, 3] {
        assert!(built(threads) == once, "{threads} threads");
    }
}

#[test]
fn a_tokenizer_trained_again_is_the_same() {
    // Its trainer keeps counts in hash maps with seeds of their own, so each training walks them in another order.
    let documents = documents(300);
    let first = Tokenizer::train(&documents, 600).unwrap();
    for _ in 0..8 {
        assert_eq!(
            Tokenizer::train(&documents, 600).unwrap().as_bytes(),
            first.as_bytes()
        );
    }
    assert!(first.vocabulary() <= 600);
    assert_eq!(first.end_of_text(), 0);
}

#[test]
fn tokens_stand_for_the_text_and_an_end_of_text_in_it_is_only_text() {
    let tokenizer = Tokenizer::train(&documents(50), 400).unwrap();
    let text = "Naïve text, with <|endoftext|> in it and a tab\t.";
    let tokens = tokenizer.encode(text).unwrap();
    assert!(!tokens.contains(&tokenizer.end_of_text()));
    let reader = tokenizers::Tokenizer::from_bytes(tokenizer.as_bytes()).unwrap();
    assert_eq!(reader.decode(&tokens, false).unwrap(), text);
}

#[test]
fn the_same_text_gives_the_same_hash_however_it_is_packed() {
    let text = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let plain = jsonl(&documents(300));
    let halves = plain.split_at(plain.iter().position(|b| *b == b'\n').unwrap() + 1);
    let mut members = gzip(halves.0);
    members.extend(gzip(halves.1));
    let hashes: BTreeSet<String> = [
        ("a.jsonl", plain.clone()),
        ("b.jsonl.gz", gzip(&plain)),
        ("c.jsonl.zst", zstandard(&plain)),
        ("two-members.json.gz", members),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        let path = write(text.path(), name, &bytes);
        let store = prepared(&spec(&path).unwrap(), cache.path()).unwrap();
        store.hash().to_owned()
    })
    .collect();
    assert_eq!(hashes.len(), 1);
}

#[test]
fn the_splits_are_disjoint_and_equal_documents_are_on_one_side() {
    let text = tempfile::tempdir().unwrap();
    let mut corpus = documents(500);
    corpus.extend(documents(500));
    let path = write(text.path(), "corpus.jsonl", &jsonl(&corpus));
    let store = prepared(&spec(&path).unwrap(), text.path()).unwrap();
    let sides = [Split::Training, Split::Validation].map(|split| {
        token_documents(&store, split)
            .into_iter()
            .collect::<BTreeSet<_>>()
    });
    assert!(sides[0].is_disjoint(&sides[1]));
    assert_eq!(sides[0].len() + sides[1].len(), 500);
    assert_eq!(
        store.documents(Split::Training) + store.documents(Split::Validation),
        1_000
    );
    assert!(
        sides
            .iter()
            .flatten()
            .all(|d| d.last() == Some(&store.end_of_text()))
    );
}

#[test]
fn documents_keep_their_side_when_others_are_added() {
    let text = tempfile::tempdir().unwrap();
    let all = documents(600);
    let path = write(text.path(), "few.jsonl", &jsonl(&all[..300]));
    let mut spec_of = spec(&path).unwrap();
    let few = prepared(&spec_of, text.path()).unwrap();
    spec_of.tokenizer = TokenizerSpec::File {
        path: few.tokenizer_path(),
    };
    let path = write(text.path(), "all.jsonl", &jsonl(&all));
    spec_of.source = SourceSpec::from_path(&path).unwrap();
    let more = prepared(&spec_of, text.path()).unwrap();
    for split in [Split::Training, Split::Validation] {
        let (before, after) = (token_documents(&few, split), token_documents(&more, split));
        assert!(after.len() > before.len());
        assert_eq!(after[..before.len()], before[..]);
    }
}

#[test]
fn validation_ends_before_the_document_that_would_exceed_its_maximum() {
    let text = tempfile::tempdir().unwrap();
    let path = write(text.path(), "corpus.jsonl", &jsonl(&documents(500)));
    let mut limited = spec(&path).unwrap();
    let whole = prepared(&limited, text.path()).unwrap();
    limited.validation.maximum_tokens = Some(whole.validation_tokens() / 2);
    let half = prepared(&limited, text.path()).unwrap();
    let (some, all) = (
        token_documents(&half, Split::Validation),
        token_documents(&whole, Split::Validation),
    );
    assert_eq!(some[..], all[..some.len()]);
    let next = all[some.len()].len() as u64;
    assert!(half.validation_tokens() <= whole.validation_tokens() / 2);
    assert!(half.validation_tokens() + next > whole.validation_tokens() / 2);
    assert_eq!(half.training_tokens(), whole.training_tokens());
}

#[test]
fn c4_reads_shards_by_number_and_validates_on_its_own_shards() {
    let folder = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let all = documents(90);
    let shard = |name: &str, documents: &[String]| {
        write(folder.path(), name, &gzip(&jsonl(documents)));
    };
    shard("c4-train.00010-of-01024.json.gz", &all[30..60]);
    shard("c4-train.00002-of-01024.json.gz", &all[..30]);
    let without = prepared(&spec(folder.path()).unwrap(), cache.path()).unwrap();
    assert_eq!(
        without.documents(Split::Training) + without.documents(Split::Validation),
        60
    );
    // Two of the validation documents are in the training shards too, and must not be trained on.
    shard("c4-validation.00000-of-00008.json.gz", &all[28..32]);
    shard("c4-validation.00001-of-00008.json.gz", &all[60..]);
    let mut given = spec(folder.path()).unwrap();
    assert!(matches!(given.source, SourceSpec::C4 { .. }));
    given.tokenizer = TokenizerSpec::File {
        path: without.tokenizer_path(),
    };
    let store = prepared(&given, cache.path()).unwrap();
    assert_eq!(store.documents(Split::Training), 56);
    assert_eq!(store.documents(Split::Validation), 34);
    let tokenizer = Tokenizer::load(&store.tokenizer_path()).unwrap();
    let expected: Vec<Vec<u32>> = all[..28]
        .iter()
        .chain(&all[32..60])
        .map(|text| {
            let mut tokens = tokenizer.encode(text).unwrap();
            tokens.push(tokenizer.end_of_text());
            tokens
        })
        .collect();
    assert_eq!(token_documents(&store, Split::Training), expected);
    let bytes: usize = all[28..32].iter().chain(&all[60..]).map(String::len).sum();
    assert_eq!(store.validation_text_bytes(), bytes as u64);
}

#[test]
fn plain_text_is_cut_into_documents_of_bounded_size() {
    let folder = tempfile::tempdir().unwrap();
    // One text with blank lines, one that is a single line of 400 kB.
    let paragraphs = documents(1_000).join("\r\n\r\n");
    let line = documents(1_500).join(" ");
    for (name, text) in [("book.txt", paragraphs), ("line.txt", line)] {
        let path = write(folder.path(), name, text.as_bytes());
        let mut found = Vec::new();
        let source = SourceSpec::from_path(&path).unwrap().open().unwrap();
        source
            .visit(&mut |item| {
                if let datasets::source::Item::Document { text, .. } = item {
                    found.push(text);
                }
                Ok(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        assert!(found.len() > 50, "{name}: {}", found.len());
        let (_, whole) = found.split_last().unwrap();
        assert!(
            whole.iter().all(|d| (2_000..=9_000).contains(&d.len())),
            "{name}"
        );
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert!(
            found.iter().flat_map(|d| words(d)).eq(words(&text)),
            "{name} lost text"
        );
    }
}

#[test]
fn bad_lines_are_counted_and_named_and_stop_the_build_beyond_their_share() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = jsonl(&documents(400));
    bytes.extend(b"{\"text\": \"cut off\n\n{\"body\": \"other field\"}\n{\"text\": \"\xff\"}\n");
    let path = write(folder.path(), "corpus.jsonl", &bytes);
    let mut given = spec(&path).unwrap();
    let store = prepared(&given, folder.path()).unwrap();
    let BadLines { bad, lines, first } = store.bad_lines();
    assert_eq!((*bad, *lines), (3, 403));
    // Line 402 is blank: neither good nor bad.
    assert_eq!(
        first.iter().map(|l| l.line).collect::<Vec<_>>(),
        [401, 403, 404]
    );
    assert!(first.iter().all(|l| l.path == path));
    given.bad_line_share = 0.007;
    let error = prepared(&given, folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("3 of 403 lines are bad"), "{error}");
    assert!(
        error.contains("corpus.jsonl:401: ") && error.contains("corpus.jsonl:404: "),
        "{error}"
    );
}

#[test]
fn two_threads_that_prepare_at_once_build_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "corpus.jsonl", &jsonl(&documents(1_000)));
    let given = spec(&path).unwrap();
    let start = Barrier::new(2);
    let prepare_counting = || {
        start.wait();
        let mut built = false;
        let store = datasets::prepare(&given, folder.path(), &mut |progress| {
            built |= progress.stage == "tokenizing";
        });
        (built, store.unwrap().hash().to_owned())
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(prepare_counting);
        let other = scope.spawn(prepare_counting);
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_eq!(one.1, other.1);
    assert!(one.0 != other.0, "exactly one of the two builds");
}

#[test]
fn what_a_killed_build_leaves_is_not_a_store_and_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "corpus.jsonl", &jsonl(&documents(300)));
    let given = spec(&path).unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let whole = prepared(&given, &first).unwrap();
    let key = whole.directory().file_name().unwrap().to_str().unwrap();
    let left = second.join(format!(".{key}.building"));
    std::fs::create_dir_all(&left).unwrap();
    write(&left, "training.tokens", b"half of it");
    let store = prepared(&given, &second).unwrap();
    assert_eq!(contents(store.directory()), contents(whole.directory()));
    assert!(!left.exists());
}

#[test]
fn hashing_a_text_says_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = jsonl(&documents(12_000));
    assert!(text.len() > 3 << 20, "several portions");
    let path = write(folder.path(), "corpus.jsonl", &text);
    let size = text.len() as u64;
    let mut seen = Vec::new();
    datasets::prepare(&spec(&path).unwrap(), folder.path(), &mut |progress| {
        if progress.stage == "looking at the text" {
            seen.push((progress.done, progress.total));
        }
    })
    .unwrap();
    assert_eq!(seen.first(), Some(&(0, None)));
    assert_eq!(seen.last(), Some(&(size, Some(size))));
    assert!(seen.len() > 3 && seen.is_sorted(), "{seen:?}");
}

#[test]
fn a_damaged_store_is_noticed_and_prepared_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "corpus.jsonl", &jsonl(&documents(300)));
    let given = spec(&path).unwrap();
    let store = prepared(&given, folder.path()).unwrap();
    let directory = store.directory().to_path_buf();
    let tokens = directory.join("training.tokens");
    let whole = contents(&directory);
    drop(store);

    let bytes = std::fs::read(&tokens).unwrap();
    std::fs::write(&tokens, &bytes[1..]).unwrap();
    let error = Store::open(&directory).unwrap_err().to_string();
    assert!(error.contains("training.tokens"), "{error}");
    let again = prepared(&given, folder.path()).unwrap();
    assert_eq!(contents(again.directory()), whole);
}

#[test]
fn a_token_beyond_the_vocabulary_is_an_error_and_no_lookup() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_of(folder.path(), 5, &[vec![1, 2, 9, 0]]);
    let error = store
        .read(Split::Training, 0..4, &mut Vec::new())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("training token 2 is 9, and the vocabulary is 5"),
        "{error}"
    );
}

#[test]
fn a_store_of_another_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(store_of(folder.path(), 5, &[vec![1, 2, 0]]));
    let manifest = folder.path().join("manifest.json");
    let json = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, json.replace("\"schema\": 1", "\"schema\": 9")).unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("its schema is 9 and this program reads 1"),
        "{error}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_line_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("training.tokens");
    // A device on which every write fails for want of room.
    std::os::unix::fs::symlink("/dev/full", &tokens).unwrap();
    let mut writer = Writer::create(folder.path(), b"{}", 5, 0).unwrap();
    writer.push(Split::Training, &[1, 2, 0], 2).unwrap();
    let error = writer
        .finish(None, None, BadLines::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("training.tokens: cannot be written: No space left"),
        "{error}"
    );
    assert!(!folder.path().join("manifest.json").exists());
}
