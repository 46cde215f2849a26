-- Where each of the 1,024 logical slots lives. One row: every transaction reads its version with a shared lock,
-- and a move of a slot holds the row exclusively for the switch, so that nobody commits by an old map.
-- slots is JSON: 1,024 pairs [database, table], in the order of the slots.
CREATE TABLE IF NOT EXISTS slot_map (
  id TINYINT NOT NULL,
  version INT NOT NULL,
  database_index INT NOT NULL,
  slot_databases INT NOT NULL,
  slot_tables INT NOT NULL,
  slots MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB;
