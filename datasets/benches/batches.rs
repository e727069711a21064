//! The loader (one update of rows out of a mapped store) and the training of a tokenizer.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use datasets::source::Item;
use datasets::store::Writer;
use datasets::tokenizer::Tokenizer;
use datasets::{BadLines, Batches, Layout, Order, SourceSpec, Split, Store};

fn updates(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut writer = Writer::create(folder.path(), b"{}", 2_048, 0).expect("an empty folder");
    let document: Vec<u32> = (0..1_000).map(|token| token * 7 % 2_048).collect();
    for _ in 0..10_000 {
        writer
            .push(Split::Training, &document, 4_000)
            .expect("room on the disk");
    }
    writer
        .finish(None, None, BadLines::default())
        .expect("room on the disk");
    let store = Arc::new(Store::open(folder.path()).expect("the store just written"));
    let mut group = criterion.benchmark_group("update of 64 rows of 256 tokens");
    group.throughput(Throughput::Elements(64 * 256));
    for (name, order, layout) in [
        ("packed, seeded", Order::Seeded(1), Layout::Packed),
        ("packed, sequential", Order::Sequential, Layout::Packed),
        ("padded, seeded", Order::Seeded(1), Layout::Padded),
    ] {
        let batches = Batches::new(
            Arc::clone(&store),
            Split::Training,
            order,
            layout,
            256,
            1,
            64,
            16,
        )
        .expect("ten million tokens are enough");
        let mut step = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                step += 1;
                black_box(batches.update(step).expect("a whole store"))
            });
        });
    }
    group.finish();
}

fn tokenizer(criterion: &mut Criterion) {
    let mut documents = Vec::new();
    SourceSpec::Crates {
        limit_bytes: Some(1 << 20),
    }
    .open()
    .and_then(|source| {
        source.visit(&mut |item| {
            if let Item::Document { text, .. } = item {
                documents.push(text);
            }
            Ok(ControlFlow::Continue(()))
        })
    })
    .expect("the sources that cargo built this from");
    let bytes: usize = documents.iter().map(String::len).sum();
    let mut group = criterion.benchmark_group("byte-level BPE on 1 MiB");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("train to 2048 tokens", |bencher| {
        bencher.iter(|| {
            black_box(Tokenizer::train(&documents, 2_048).expect("a large enough vocabulary"))
        });
    });
    let trained = Tokenizer::train(&documents, 2_048).expect("a large enough vocabulary");
    group.bench_function("encode on one core", |bencher| {
        bencher.iter(|| {
            for text in &documents {
                black_box(trained.encode(text).expect("text"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, updates, tokenizer);
criterion_main!(benches);
