//! The text of every statement, made once when the database is opened.

use crate::store::backend::Table;

/// The statements of one table. Parameters: 1 the key or where to begin, 2 the value or the limit, 3 the end.
#[derive(Debug)]
pub(super) struct Sql {
    /// As it stands in the schema; what opening compares with.
    pub(super) create: String,
    pub(super) get: String,
    pub(super) put: String,
    pub(super) remove: String,
    pub(super) scan: String,
    pub(super) scan_to: String,
    pub(super) back: String,
    pub(super) back_to: String,
}

impl Sql {
    pub(super) fn new(table: Table) -> Self {
        let t = table.name();
        let from = format!("SELECT key, value FROM {t} WHERE key >= ?1");
        Self {
            create: format!("CREATE TABLE {t} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"),
            get: format!("SELECT value FROM {t} WHERE key = ?1"),
            put: format!("REPLACE INTO {t} (key, value) VALUES (?1, ?2)"),
            remove: format!("DELETE FROM {t} WHERE key = ?1"),
            scan: format!("{from} ORDER BY key LIMIT ?2"),
            scan_to: format!("{from} AND key < ?3 ORDER BY key LIMIT ?2"),
            back: format!("{from} ORDER BY key DESC LIMIT ?2"),
            back_to: format!("{from} AND key < ?3 ORDER BY key DESC LIMIT ?2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_where_their_discriminant_says() {
        for (at, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, at, "{table:?} is looked up by its discriminant");
            assert!(Sql::new(table).create.contains(&format!("CREATE TABLE {} (", table.name())));
        }
    }
}
