-- The schema that the migrations lead to, for reading and for the checks. Written by "npm run gen": do not edit.
-- Order databases have the tables with a number once per table of the shard; here is the first.

-- events.catch_up_cursors
CREATE TABLE `catch_up_cursors` (
  `consumer` varchar(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `walk` tinyint(4) NOT NULL,
  `database_index` int(11) NOT NULL,
  `order_id` bigint(20) NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `owned_until` datetime(3) DEFAULT NULL,
  `due_time` datetime(3) NOT NULL,
  `pass_time` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`consumer`,`walk`,`database_index`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- events.confirmation_mails
CREATE TABLE `confirmation_mails` (
  `order_id` bigint(20) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `payload` blob NOT NULL,
  `attempts` int(11) NOT NULL DEFAULT 0,
  `failure` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL DEFAULT '',
  `next_time` datetime(3) DEFAULT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `sent_time` datetime(3) DEFAULT NULL,
  `create_time` datetime(3) NOT NULL,
  PRIMARY KEY (`order_id`),
  KEY `due` (`next_time`),
  KEY `by_time` (`create_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- events.counted_orders
CREATE TABLE `counted_orders` (
  `order_id` bigint(20) NOT NULL,
  `version` int(11) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `status` tinyint(4) NOT NULL,
  `total_minor` bigint(20) NOT NULL,
  `refunded_minor` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `update_time` datetime(3) NOT NULL,
  PRIMARY KEY (`order_id`),
  KEY `by_time` (`update_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- events.user_statistics
CREATE TABLE `user_statistics` (
  `user_id` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `orders` bigint(20) NOT NULL,
  `paid` bigint(20) NOT NULL,
  `cancelled` bigint(20) NOT NULL,
  `refunded` bigint(20) NOT NULL,
  `paid_minor` bigint(20) NOT NULL,
  `refunded_minor` bigint(20) NOT NULL,
  `update_time` datetime(3) NOT NULL,
  PRIMARY KEY (`user_id`,`currency`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.archived_orders
CREATE TABLE `archived_orders` (
  `order_id` bigint(20) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `status` tinyint(4) NOT NULL,
  `close_reason` tinyint(4) NOT NULL,
  `version` int(11) NOT NULL,
  `total_minor` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `payment_id` bigint(20) NOT NULL,
  `refunded_minor` bigint(20) NOT NULL,
  `update_time` datetime(3) NOT NULL,
  `archive_time` datetime(3) NOT NULL,
  `body` mediumtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL,
  PRIMARY KEY (`order_id`),
  KEY `user_orders` (`user_id`,`order_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.orders_00
CREATE TABLE `orders_00` (
  `order_id` bigint(20) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `request_id` varbinary(128) DEFAULT NULL,
  `fingerprint` binary(16) DEFAULT NULL,
  `status` tinyint(4) NOT NULL,
  `close_reason` tinyint(4) NOT NULL DEFAULT 0,
  `version` int(11) NOT NULL DEFAULT 1,
  `total_minor` bigint(20) NOT NULL DEFAULT 0,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  `payment_id` bigint(20) NOT NULL DEFAULT 0,
  `create_time` datetime(3) NOT NULL,
  `expire_time` datetime(3) NOT NULL,
  `update_time` datetime(3) NOT NULL,
  `payment_begun` tinyint(4) NOT NULL DEFAULT 0,
  `refunded_minor` bigint(20) NOT NULL DEFAULT 0,
  PRIMARY KEY (`order_id`),
  UNIQUE KEY `user_request` (`user_id`,`request_id`),
  KEY `user_orders` (`user_id`,`order_id`),
  KEY `due` (`status`,`payment_begun`,`expire_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.order_history_00
CREATE TABLE `order_history_00` (
  `order_id` bigint(20) NOT NULL,
  `version` int(11) NOT NULL,
  `from_status` tinyint(4) NOT NULL,
  `to_status` tinyint(4) NOT NULL,
  `close_reason` tinyint(4) NOT NULL DEFAULT 0,
  `create_time` datetime(3) NOT NULL,
  PRIMARY KEY (`order_id`,`version`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.order_items_00
CREATE TABLE `order_items_00` (
  `order_id` bigint(20) NOT NULL,
  `sku_id` bigint(20) NOT NULL,
  `quantity` int(11) NOT NULL,
  `unit_price_minor` bigint(20) NOT NULL,
  PRIMARY KEY (`order_id`,`sku_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.outbox
CREATE TABLE `outbox` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `payload` mediumblob NOT NULL,
  `create_time` datetime(3) NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `owned_until` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.outbox_set_aside
CREATE TABLE `outbox_set_aside` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `outbox_id` bigint(20) NOT NULL,
  `payload` mediumblob NOT NULL,
  `create_time` datetime(3) NOT NULL,
  `reason` varchar(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL,
  `attempts` int(11) NOT NULL DEFAULT 0,
  `next_time` datetime(3) DEFAULT NULL,
  `set_aside_time` datetime(3) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `due` (`next_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.overdue_begun
CREATE TABLE `overdue_begun` (
  `order_id` bigint(20) NOT NULL,
  `attempts` int(11) NOT NULL DEFAULT 0,
  `processing` tinyint(4) NOT NULL DEFAULT 0,
  `next_time` datetime(3) NOT NULL,
  PRIMARY KEY (`order_id`),
  KEY `due` (`next_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.slot_map
CREATE TABLE `slot_map` (
  `id` tinyint(4) NOT NULL,
  `version` int(11) NOT NULL,
  `database_index` int(11) NOT NULL,
  `slot_databases` int(11) NOT NULL,
  `slot_tables` int(11) NOT NULL,
  `slots` mediumtext CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- order.workers
CREATE TABLE `workers` (
  `worker_id` tinyint(3) unsigned NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `leased_until` datetime(3) NOT NULL,
  `high_water_ms` bigint(20) NOT NULL,
  PRIMARY KEY (`worker_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- payment.closed_orders
CREATE TABLE `closed_orders` (
  `order_id` bigint(20) NOT NULL,
  `create_time` datetime(3) NOT NULL,
  PRIMARY KEY (`order_id`),
  KEY `by_time` (`create_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- payment.payments
CREATE TABLE `payments` (
  `payment_id` bigint(20) NOT NULL,
  `order_id` bigint(20) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `request_id` varbinary(128) NOT NULL,
  `provider` varchar(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `provider_reference` varbinary(255) DEFAULT NULL,
  `payment_url` varchar(2048) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  `status` tinyint(4) NOT NULL,
  `settlement` tinyint(4) NOT NULL DEFAULT 0,
  `amount_minor` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `captured_minor` bigint(20) DEFAULT NULL,
  `captured_currency` char(3) CHARACTER SET ascii COLLATE ascii_bin DEFAULT NULL,
  `failure` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL DEFAULT '',
  `session_over` tinyint(4) NOT NULL DEFAULT 0,
  `expire_time` datetime(3) NOT NULL,
  `attempts` int(11) NOT NULL DEFAULT 0,
  `next_time` datetime(3) DEFAULT NULL,
  `create_time` datetime(3) NOT NULL,
  `update_time` datetime(3) NOT NULL,
  PRIMARY KEY (`payment_id`),
  UNIQUE KEY `order_request` (`order_id`,`request_id`),
  UNIQUE KEY `session` (`provider`,`provider_reference`),
  KEY `due` (`settlement`,`next_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- payment.refunds
CREATE TABLE `refunds` (
  `refund_id` bigint(20) NOT NULL,
  `payment_id` bigint(20) NOT NULL,
  `request_id` varbinary(132) NOT NULL,
  `amount_minor` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `whole` tinyint(4) NOT NULL,
  `status` tinyint(4) NOT NULL,
  `reason` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL,
  `restock` tinyint(4) NOT NULL,
  `provider_reference` varbinary(255) DEFAULT NULL,
  `failure` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL DEFAULT '',
  `told` tinyint(4) NOT NULL DEFAULT 0,
  `attempts` int(11) NOT NULL DEFAULT 0,
  `next_time` datetime(3) DEFAULT NULL,
  `create_time` datetime(3) NOT NULL,
  `update_time` datetime(3) NOT NULL,
  PRIMARY KEY (`refund_id`),
  UNIQUE KEY `payment_request` (`payment_id`,`request_id`),
  KEY `due` (`next_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- payment.webhooks_aside
CREATE TABLE `webhooks_aside` (
  `provider` varchar(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `event_id` varbinary(255) NOT NULL,
  `body` mediumblob NOT NULL,
  `failure` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL,
  `attempts` int(11) NOT NULL DEFAULT 0,
  `next_time` datetime(3) NOT NULL,
  `create_time` datetime(3) NOT NULL,
  PRIMARY KEY (`provider`,`event_id`),
  KEY `due` (`next_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- payment.webhook_inbox
CREATE TABLE `webhook_inbox` (
  `provider` varchar(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `event_id` varbinary(255) NOT NULL,
  `event_type` varchar(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `payment_id` bigint(20) DEFAULT NULL,
  `effect` varchar(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `body` mediumblob NOT NULL,
  `create_time` datetime(3) NOT NULL,
  PRIMARY KEY (`provider`,`event_id`),
  KEY `by_payment` (`payment_id`),
  KEY `by_time` (`create_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- stock.audit_breaches
CREATE TABLE `audit_breaches` (
  `sku_id` bigint(20) NOT NULL,
  `promise` varchar(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `detail` varchar(500) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `found_time` datetime(3) NOT NULL,
  PRIMARY KEY (`sku_id`,`promise`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.audit_cursor
CREATE TABLE `audit_cursor` (
  `id` tinyint(4) NOT NULL,
  `sku_id` bigint(20) NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `owned_until` datetime(3) DEFAULT NULL,
  `pass_time` datetime(3) DEFAULT NULL,
  `audited_time` datetime(3) NOT NULL,
  `due_time` datetime(3) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.keeper
CREATE TABLE `keeper` (
  `id` tinyint(4) NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `owned_until` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.recheck_cursor
CREATE TABLE `recheck_cursor` (
  `id` tinyint(4) NOT NULL,
  `order_id` bigint(20) NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `owned_until` datetime(3) DEFAULT NULL,
  `due_time` datetime(3) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.skus
CREATE TABLE `skus` (
  `sku_id` bigint(20) NOT NULL,
  `title` varchar(200) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `unit_price_minor` bigint(20) NOT NULL,
  `open_time` datetime(3) DEFAULT NULL,
  `close_time` datetime(3) DEFAULT NULL,
  `limit_per_user` int(11) NOT NULL,
  `paused` tinyint(4) NOT NULL,
  `settings_version` bigint(20) NOT NULL,
  `supplied` bigint(20) NOT NULL,
  `available` bigint(20) NOT NULL,
  `held` bigint(20) NOT NULL,
  `sold` bigint(20) NOT NULL,
  `epoch` bigint(20) NOT NULL,
  `creation_digest` binary(16) NOT NULL,
  `create_time` datetime(3) NOT NULL,
  `update_time` datetime(3) NOT NULL,
  PRIMARY KEY (`sku_id`),
  CONSTRAINT `skus_never_negative` CHECK (`supplied` >= 0 and `available` >= 0 and `held` >= 0 and `sold` >= 0),
  CONSTRAINT `skus_add_up` CHECK (`supplied` = `available` + `held` + `sold`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.stock_adjustments
CREATE TABLE `stock_adjustments` (
  `request_id` varbinary(128) NOT NULL,
  `sku_id` bigint(20) NOT NULL,
  `delta` bigint(20) NOT NULL,
  `create_time` datetime(3) NOT NULL DEFAULT current_timestamp(3),
  PRIMARY KEY (`request_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.stock_holds
CREATE TABLE `stock_holds` (
  `order_id` bigint(20) NOT NULL,
  `sku_id` bigint(20) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `request_id` varbinary(128) NOT NULL,
  `fingerprint` binary(16) NOT NULL,
  `units` int(11) NOT NULL,
  `unit_price_minor` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `state` tinyint(4) NOT NULL,
  `create_time` datetime(3) NOT NULL DEFAULT current_timestamp(3),
  `update_time` datetime(3) NOT NULL DEFAULT current_timestamp(3),
  PRIMARY KEY (`order_id`,`sku_id`),
  KEY `holds_by_buyer` (`sku_id`,`user_id`,`state`,`units`),
  CONSTRAINT `holds_never_negative` CHECK (`units` >= 0)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.sweep_cursor
CREATE TABLE `sweep_cursor` (
  `id` tinyint(4) NOT NULL,
  `order_id` bigint(20) NOT NULL,
  `owner` varbinary(64) DEFAULT NULL,
  `owned_until` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- stock.watermark
CREATE TABLE `watermark` (
  `id` tinyint(4) NOT NULL,
  `order_id` bigint(20) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

-- warehouse.order_line_facts
CREATE TABLE `order_line_facts` (
  `order_id` bigint(20) NOT NULL,
  `sku_id` bigint(20) NOT NULL,
  `version` int(11) NOT NULL,
  `user_id` bigint(20) NOT NULL,
  `status` varchar(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `close_reason` varchar(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `quantity` int(11) NOT NULL,
  `unit_price_minor` bigint(20) NOT NULL,
  `order_total_minor` bigint(20) NOT NULL,
  `order_refunded_minor` bigint(20) NOT NULL,
  `currency` char(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  `payment_id` bigint(20) NOT NULL,
  `order_create_time` datetime(3) NOT NULL,
  `event_time` datetime(3) NOT NULL,
  PRIMARY KEY (`order_id`,`sku_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
