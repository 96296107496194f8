//! Worlds of relays, nodes, wallets and clients, one program for all of them: each test program links the whole stack once
//! more, which costs its seconds and its hundreds of megabytes. What needs the machine for itself is a program of its own
//! beside this one.

mod accounts;
mod bad_input;
mod bundle;
mod bunker;
mod bunker_agent;
mod bunker_node;
mod bunker_operator;
mod commands;
mod config_errors;
mod consent;
mod deeds;
mod delegation;
mod discovery;
mod doctor;
mod first_light;
mod http;
mod idle;
mod interop;
mod lease;
mod life;
mod lifecycle;
mod loops;
mod mount;
mod moving;
mod nostr;
mod nwc;
mod operator;
mod plumber;
mod rate;
mod remote;
mod resilience;
mod rights;
mod secrets;
mod streams;
mod tail;
mod wallet;
mod wallet_bad_input;
mod wallet_relay;
mod wallet_secrets;
mod workspace;
mod ws;
