//! `[[keys]]`: the keys that clients may send, beside the single `key`.

use std::{collections::BTreeMap, path::PathBuf};

use figment::value::Value;
use serde::{Deserialize, Serialize};

use super::{
    BitRate, Expiry, Secret, Size,
    rules::Rules,
    tables::{is_label, place, whose},
};

/// The name of the list.
pub(super) const LIST: &str = "keys";

/// How many keys there may be. Each leg is compared with all of them.
pub(super) const MOST: usize = 1000;

/// One table of `[[keys]]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyConfig {
    /// What the key is called in logs, metrics and the admin API.
    pub label: String,
    /// What clients send, or the base64 Ed25519 secret key of which it is the public half.
    pub key: Secret,
    /// A file that holds the key; empty for none.
    pub key_file: PathBuf,
    /// From when on it lets nobody in.
    pub expires: Option<Expiry>,
    /// How fast all relays of the key may be together.
    pub bandwidth: BitRate,
    /// How many relays of the key there may be at once.
    pub max_relays: Option<u32>,
    /// How many bytes the relays of the key may carry in a calendar month (UTC).
    pub monthly_traffic: Option<Size>,
}

impl KeyConfig {
    /// A table in which every key is named.
    pub(super) fn template() -> Value {
        Value::serialize(Self::default()).expect("the defaults serialize")
    }

    fn validate(&self, n: usize, rules: &mut Rules) {
        let label = is_label(&self.label).then_some(&*self.label);
        let whose = whose(LIST, n, label);
        let at = |key: &str| format!("{}.{key}", place(LIST, n));
        let require = &mut |holds, keys: &[&str], what: &str| {
            let keys: Vec<_> = keys.iter().map(|key| at(key)).collect();
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            rules.require(holds, &keys, format!("{what}{whose}"));
        };
        let of = "1 to 64 letters, digits, dots, dashes and underscores";
        let found = if self.label.is_empty() { "none" } else { "another text" };
        require(label.is_some(), &["label"], &format!("found {found}, expected {of}"));
        let (key, file) = (!self.key.is_empty(), !self.key_file.as_os_str().is_empty());
        require(key || file, &["key", "key_file"], "found neither key nor key_file, expected one");
        require(
            !(key && file),
            &["key", "key_file"],
            "key and key_file are both set: leave one out",
        );
        require(
            !matches!(self.key.expose(), "-" | "_"),
            &["key"],
            "\"-\" and \"_\" stand for id_ed25519 at the top only: write key_file = \"id_ed25519\"",
        );
        let rate = self.bandwidth.check_limit();
        require(rate.is_ok(), &["bandwidth"], &rate.err().unwrap_or_default());
        let none = "found 0, expected 1 or more (to let nobody in with it, take the key out)";
        require(self.max_relays != Some(0), &["max_relays"], none);
        let traffic = self.monthly_traffic.map(Size::get);
        require(traffic != Some(0), &["monthly_traffic"], none);
    }
}

/// What holds for all of them together. `with_default`: there is a single `key` too, which has the
/// label [`DEFAULT_LABEL`].
pub(super) fn validate(keys: &[KeyConfig], with_default: bool, rules: &mut Rules) {
    let what = format!("found {} keys, expected {MOST} at most", keys.len());
    rules.require(keys.len() <= MOST, &[LIST], what);
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, n) in keys.iter().zip(1..) {
        key.validate(n, rules);
        if !is_label(&key.label) {
            continue;
        }
        let at = format!("{}.label", place(LIST, n));
        let whose = whose(LIST, n, Some(&key.label));
        if with_default && key.label == DEFAULT_LABEL {
            let what = format!("the key at the top has this label: choose another one{whose}");
            rules.require(false, &[&at], what);
        }
        if let Some(before) = first.insert(&key.label, n) {
            let other = format!("{}.label", place(LIST, before));
            let what = format!("{other} is the same: each key needs a label of its own{whose}");
            rules.require(false, &[&at, &other], what);
        }
    }
}

/// The label of the single `key`.
pub const DEFAULT_LABEL: &str = "default";
