#!/usr/bin/env bash
# Builds a real bitcoind, without a wallet, from the tree of Bitcoin Core inside a crate, and prints where it is.
# Once it is there, again costs nothing. Nothing here is part of ./test: the Lightning scenarios run against it with
#
#   OA_TEST_BITCOIND=$(tests/bitcoind.sh) cargo test -p oa-tests --test lightning
#
# About ten minutes of one core and, while it builds, less than 300 MB; 10 MB afterwards. OA_TEST_JOBS=N builds with N jobs
# instead of one. `--install` (or CI=1) installs what it needs; otherwise it names the command that would.
set -euo pipefail

crate=libbitcoinkernel-sys version=0.4.1
checksum=345d18a1ce19a1becfcaaa066e3a60e9c7813ef5c23ea8c20704ca4ba1a46339
to=${OA_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/oa-tests}/bitcoind
binary=$to/bitcoind
stamp="$crate $version $checksum"

if [ -x "$binary" ] && [ "$(cat "$to/built-from" 2>/dev/null)" = "$stamp" ]; then
  echo "$binary"
  exit 0
fi

packages="build-essential cmake ninja-build libboost-dev"
is_ready() { command -v c++ && command -v cmake && command -v ninja && [ -e /usr/include/boost/version.hpp ]; }
if ! is_ready >/dev/null; then
  if [ "${1:-}" != --install ] && [ -z "${CI:-}" ]; then
    echo "missing one of: $packages. To install them: apt-get install -y $packages   (or: $0 --install)" >&2
    exit 1
  fi
  # shellcheck disable=SC2086
  { apt-get update && apt-get install -y $packages; } >&2
fi

mkdir -p "$to"
exec 9>"$to/lock"
flock 9 # whoever builds at the same time
if [ -x "$binary" ] && [ "$(cat "$to/built-from" 2>/dev/null)" = "$stamp" ]; then
  echo "$binary"
  exit 0
fi

work=$to/build
rm -rf "$work"
mkdir -p "$work/fetch/src"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM # which is an EXIT, too

# A package that does nothing but name the crate, for cargo to bring it here.
touch "$work/fetch/src/lib.rs"
cat >"$work/fetch/Cargo.toml" <<TOML
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[dependencies]
$crate = "=$version"

[workspace]
TOML
(cd "$work/fetch" && cargo vendor --quiet --versioned-dirs "$work/vendor" >/dev/null)
grep -q "checksum = \"$checksum\"" "$work/fetch/Cargo.lock" || {
  echo "the registry's $crate $version is not the one that was looked at" >&2
  exit 1
}

{
  cmake -S "$work/vendor/$crate-$version/bitcoin" -B "$work/cmake" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DENABLE_WALLET=OFF -DWITH_EMBEDDED_ASMAP=OFF -DINSTALL_MAN=OFF -DBUILD_TESTS=OFF \
    -DBUILD_BENCH=OFF -DBUILD_TX=OFF -DBUILD_UTIL=OFF -DBUILD_CLI=OFF -DBUILD_BITCOIN_BIN=OFF -DENABLE_IPC=OFF \
    -DWITH_ZMQ=OFF
  nice -n 19 cmake --build "$work/cmake" --target bitcoind -j "${OA_TEST_JOBS:-1}"
  strip -o "$binary.new" "$work/cmake/bin/bitcoind"
  "$binary.new" -version | head -1
} >&2
mv "$binary.new" "$binary"
echo "$stamp" >"$to/built-from"
echo "$binary"
