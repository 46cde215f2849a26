-- Orders that "./sluice prune" took out of the tables above, one row each, in the transaction that deletes them there:
-- cancelled, rejected and refunded ones, and fences (status 8). The columns are what the audit compares with payments and
-- events; body is the whole order with its items and history as JSON, for people.
CREATE TABLE IF NOT EXISTS archived_orders (
  order_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  status TINYINT NOT NULL,
  close_reason TINYINT NOT NULL,
  version INT NOT NULL,
  total_minor BIGINT NOT NULL,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  payment_id BIGINT NOT NULL,
  refunded_minor BIGINT NOT NULL,
  update_time DATETIME(3) NOT NULL,
  archive_time DATETIME(3) NOT NULL,
  body MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL,
  PRIMARY KEY (order_id),
  KEY user_orders (user_id, order_id)
) ENGINE=InnoDB;
