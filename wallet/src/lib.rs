//! Money for agents: amounts, budgets, accounts, and a Lightning wallet that is spoken to by NWC (NIP-47).
