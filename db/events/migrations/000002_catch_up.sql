-- How far each projection has compared itself with the orders, for what Kafka lost, and which process does it now.
-- One row for each consumer, walk (1: recent orders, 2: older ones) and order database. Passes go from the newest order
-- to the oldest; order_id is the last one that was looked at in the pass under way, 0 between two passes.
CREATE TABLE IF NOT EXISTS catch_up_cursors (
  consumer VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  walk TINYINT NOT NULL,
  database_index INT NOT NULL,
  order_id BIGINT NOT NULL,
  owner VARBINARY(64) NULL,
  owned_until DATETIME(3) NULL,
  -- The next turn of a process begins no earlier.
  due_time DATETIME(3) NOT NULL,
  -- When the last pass ended; NULL before the first one has.
  pass_time DATETIME(3) NULL,
  PRIMARY KEY (consumer, walk, database_index)
) ENGINE=InnoDB;
