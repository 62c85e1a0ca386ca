import type { Repository } from './registry';

/** What the table can be filtered by. */
export const FILTERS = ['owner', 'risk', 'status'] as const;
export type Filter = (typeof FILTERS)[number];

/** The chosen values of each filter; none of them lets every repository through. */
export type Chosen = Record<Filter, string[]>;

/** How a missing value is shown, and chosen in a filter. */
export const MISSING = '-';

// From harmless to grave; others come after them, by name.
const RISKS = ['low', 'medium', 'high'];

export function isMatch(repository: Repository, chosen: Chosen): boolean {
  return FILTERS.every(
    filter =>
      chosen[filter].length === 0 ||
      chosen[filter].includes(repository[filter] ?? MISSING),
  );
}

/** The values that a field has, in the order in which a person looks for them. */
export function valuesOf(repositories: Repository[], field: Filter): string[] {
  const compare = field === 'risk' ? compareRisks : compareTexts;
  const values = new Set(repositories.map(each => each[field] ?? MISSING));
  return [...values].sort(compare);
}

export function compareRisks(
  one: string | undefined,
  other: string | undefined,
): number {
  return rankOf(one) - rankOf(other) || compareTexts(one, other);
}

/** By name; a missing one last. */
export function compareTexts(one = MISSING, other = MISSING): number {
  if (one === other) return 0;
  if (one === MISSING) return 1;
  if (other === MISSING) return -1;
  return one < other ? -1 : 1;
}

function rankOf(risk: string | undefined): number {
  const rank = RISKS.indexOf(risk ?? MISSING);
  return rank < 0 ? RISKS.length : rank;
}
