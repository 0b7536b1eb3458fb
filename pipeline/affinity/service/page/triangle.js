// Symmetric matrices come as lower triangles: row i holds columns 0..i.

export const at = (triangle, i, j) => (i >= j ? triangle[i][j] : triangle[j][i]);

/** The values below the diagonal that are defined, rising. */
export function sortedPairs(triangle) {
  const found = [];
  triangle.forEach((row, i) => {
    for (let j = 0; j < i; j += 1) if (row[j] !== null) found.push(row[j]);
  });
  return Float64Array.from(found).sort();
}

/** The value that a share of `sorted` lies below. */
export function quantile(sorted, share) {
  return sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : 0;
}
