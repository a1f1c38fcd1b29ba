// What the page of `dots watch` computes.

import assert from "node:assert/strict";
import { test } from "node:test";

import { smooth } from "./scale.js";

test("a smoothed curve weighs its first point like any other", () => {
  const near = (found, expected, by = 1e-9) => assert.ok(Math.abs(found - expected) < by, `${found} for ${expected}`);
  // With a half-life of one step: 4, then (4 / 2 + 1) / 1.5, then (4 / 4 + 1 / 2 + 1) / 1.75.
  const found = smooth([4, 1, 1], [1, 2, 3], 1);
  [4, 2, 2.5 / 1.75].forEach((expected, index) => near(found[index], expected));
  // A long half-life is the plain mean.
  near(smooth([8, 2, 2, 2, 2, 2], [1, 2, 3, 4, 5, 6], 1e4)[5], 3, 0.01);
  assert.deepEqual(smooth([3, null, 3], [1, 2, 3], 5), [3, null, 3]);
});
