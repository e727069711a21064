//! Tokenizers: a byte-level BPE trained on the beginning of the training split, or any `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use crate::DataError;

/// Which tokenizer to use. Part of [`crate::DataSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenizerSpec {
    /// A byte-level BPE with at most this many tokens, trained on the first [`SAMPLE_BYTES`] of the training split.
    Train { vocabulary: usize },
    /// A `tokenizer.json` as Hugging Face's tokenizers write it.
    File { path: PathBuf },
}

/// The token that ends a document in tokenizers trained here; its id is 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The names under which a loaded tokenizer may hold the token that ends a document, in the order of search.
pub const END_OF_TEXT_NAMES: [&str; 6] = [
    "</s>",
    END_OF_TEXT,
    "<|end_of_text|>",
    "<|im_end|>",
    "<eos>",
    "[SEP]",
];

/// 256 bytes and the end of text.
const LEAST_VOCABULARY: usize = 257;

/// Text that a tokenizer is trained on, at most: the first documents of the training split with this many bytes together.
/// Merges of a few thousand tokens are settled long before, and training stays a matter of seconds. The last merges of a
/// vocabulary of tens of thousands rest on few occurrences; such a tokenizer is better given than trained here.
pub const SAMPLE_BYTES: usize = 16 << 20;

/// Text to tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bytes: Vec<u8>,
    vocabulary: u32,
    end_of_text: u32,
    end_of_text_name: &'static str,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file cannot be read, is not a tokenizer, or has no token of [`END_OF_TEXT_NAMES`].
    pub fn load(path: &Path) -> Result<Tokenizer, DataError> {
        let bytes = std::fs::read(path).map_err(|e| DataError::read(path, e))?;
        let tokenizer = Tokenizer::from_bytes(bytes, path)?;
        Ok(tokenizer)
    }

    fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Tokenizer, DataError> {
        let not_one = |reason: String| DataError::NotTokenizer {
            path: path.into(),
            reason: reason.lines().next().unwrap_or_default().into(),
        };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| not_one(e.to_string()))?;
        // Files often carry the padding and truncation of the task that they were saved for.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| not_one(e.to_string()))?;
        // A document that spells out a special token must not end itself.
        inner.set_encode_special_tokens(true);
        let (end_of_text, end_of_text_name) = END_OF_TEXT_NAMES
            .iter()
            .find_map(|name| Some((inner.token_to_id(name)?, *name)))
            .ok_or_else(|| DataError::NoEndOfText { path: path.into() })?;
        // Ids may have gaps, so the greatest counts and not their number.
        let greatest = inner.get_vocab(true).values().copied().max();
        let vocabulary = greatest
            .and_then(|greatest| greatest.checked_add(1))
            .ok_or_else(|| not_one("it has no usable token ids".into()))?;
        Ok(Tokenizer {
            inner,
            bytes,
            vocabulary,
            end_of_text,
            end_of_text_name,
        })
    }

    /// Trains a byte-level BPE on `documents`, with [`END_OF_TEXT`] as token 0, the 256 bytes next, then merges.
    ///
    /// The result depends on the documents alone: ties between pairs are broken by their ids.
    ///
    /// # Errors
    /// `vocabulary` cannot hold every byte.
    pub fn train(documents: &[String], vocabulary: usize) -> Result<Tokenizer, DataError> {
        if vocabulary < LEAST_VOCABULARY {
            return Err(DataError::Vocabulary {
                requested: vocabulary,
                least: LEAST_VOCABULARY,
            });
        }
        let failed = |e: tokenizers::Error| DataError::Tokenizer {
            reason: e.to_string(),
        };
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocabulary)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build();
        let mut tokenizer = TokenizerBuilder::<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        >::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true).into()))
        .with_decoder(Some(ByteLevel::default().into()))
        .build()
        .map_err(failed)?;
        tokenizer
            .train(&mut trainer, documents.iter())
            .map_err(failed)?;
        let json = tokenizer.to_string(false).map_err(failed)?;
        // What is used is what was written, so that a loaded store and a new one cannot differ.
        Tokenizer::from_bytes(json.into_bytes(), Path::new("tokenizer.json"))
    }

    /// The tokens of a text, without any that the tokenizer would add around it.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.inner
            .encode_fast(text, false)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| DataError::Tokenizer {
                reason: e.to_string(),
            })
    }

    /// One more than the greatest token id.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The token that ends a document.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// Its text, one of [`END_OF_TEXT_NAMES`].
    pub fn end_of_text_name(&self) -> &'static str {
        self.end_of_text_name
    }

    /// The `tokenizer.json` that this tokenizer is.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash of [`Tokenizer::as_bytes`].
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.bytes)
    }
}
