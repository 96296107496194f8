//! Bundles out of one store and into another, on each backend, and bundles that are none.

mod fixture;
mod moving;
mod reading;
mod seeds;
