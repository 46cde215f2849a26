-- How far the second look at old holds has come, and which process takes it. Holds are told of later changes
-- of their orders by events, which Kafka may lose; this look finds what they left behind, pass after pass.
CREATE TABLE IF NOT EXISTS recheck_cursor (
  id TINYINT NOT NULL,
  -- Orders up to this one were looked at in the pass under way; 0 between passes.
  order_id BIGINT NOT NULL,
  owner VARBINARY(64) NULL,
  owned_until DATETIME(3) NULL,
  -- The next turn of a process begins no earlier.
  due_time DATETIME(3) NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT INTO recheck_cursor (id, order_id, due_time)
  SELECT 1, 0, NOW(3) FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM recheck_cursor WHERE id = 1);
