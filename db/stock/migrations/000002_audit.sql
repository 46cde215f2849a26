-- How far the audit of the ledger has come, and which process does it now. It recounts every SKU's holds
-- against its figures, pass after pass; a process that dies in a pass leaves the rest of it to the next.
CREATE TABLE IF NOT EXISTS audit_cursor (
  id TINYINT NOT NULL,
  -- SKUs up to this one were recounted in the pass under way.
  sku_id BIGINT NOT NULL,
  owner VARBINARY(64) NULL,
  owned_until DATETIME(3) NULL,
  -- When the pass under way began, and when the last complete one did.
  pass_time DATETIME(3) NULL,
  audited_time DATETIME(3) NOT NULL,
  -- The next turn of a process begins no earlier.
  due_time DATETIME(3) NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT INTO audit_cursor (id, sku_id, audited_time, due_time)
  SELECT 1, 0, NOW(3), NOW(3) FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM audit_cursor WHERE id = 1);

-- What the last look at a SKU found broken; a row goes when a later look finds the promise kept.
CREATE TABLE IF NOT EXISTS audit_breaches (
  sku_id BIGINT NOT NULL,
  promise VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  -- Figures only, nothing about a user.
  detail VARCHAR(500) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  found_time DATETIME(3) NOT NULL,
  PRIMARY KEY (sku_id, promise)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
