//! Hash maps that are the same in every run, for simulations that repeat.

use core::hash::BuildHasherDefault;
use rapidhash::fast::RapidHasher;

type Fixed = BuildHasherDefault<RapidHasher<'static>>;

/// A map.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, Fixed>;
/// A set.
pub(crate) type Set<T> = hashbrown::HashSet<T, Fixed>;
