-- Facts for analysis, behind the MySQL protocol, so that Doris, StarRocks or TiDB can stand here. One row per order line,
-- replaced by higher versions of its order only.
CREATE TABLE IF NOT EXISTS order_line_facts (
  order_id BIGINT NOT NULL,
  sku_id BIGINT NOT NULL,
  version INT NOT NULL,
  user_id BIGINT NOT NULL,
  status VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  close_reason VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  quantity INT NOT NULL,
  unit_price_minor BIGINT NOT NULL,
  order_total_minor BIGINT NOT NULL,
  order_refunded_minor BIGINT NOT NULL,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  payment_id BIGINT NOT NULL,
  order_create_time DATETIME(3) NOT NULL,
  event_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id, sku_id)
) ENGINE=InnoDB;
