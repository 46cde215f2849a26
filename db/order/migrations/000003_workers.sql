-- The 64 worker numbers inside order ids. The table is in every order database because all have one schema;
-- only database 0's leases count. high_water_ms bounds every id (milliseconds since 1970) that any holder of the
-- number has made or may still make under its lease; the next holder starts above it.
CREATE TABLE IF NOT EXISTS workers (
  worker_id TINYINT UNSIGNED NOT NULL,
  owner VARBINARY(64) NULL,
  leased_until DATETIME(3) NOT NULL,
  high_water_ms BIGINT NOT NULL,
  PRIMARY KEY (worker_id)
) ENGINE=InnoDB;

-- 64 rows, once. WHERE TRUE keeps MariaDB from reading ON DUPLICATE as a join's condition.
INSERT INTO workers (worker_id, owner, leased_until, high_water_ms)
SELECT high.n * 8 + low.n, NULL, '2025-01-01 00:00:00.000', 0
FROM (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3
      UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7) AS high
CROSS JOIN (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3
      UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7) AS low
WHERE TRUE
ON DUPLICATE KEY UPDATE worker_id = VALUES(worker_id);
