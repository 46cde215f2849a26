-- Which process looks at all gates and settles what is left pending there: one for all copies, because each look
-- costs Redis some commands for every SKU. One that dies or hangs is followed by the next within seconds.
CREATE TABLE IF NOT EXISTS keeper (
  id TINYINT NOT NULL,
  owner VARBINARY(64) NULL,
  owned_until DATETIME(3) NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT INTO keeper (id)
  SELECT 1 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM keeper WHERE id = 1);
