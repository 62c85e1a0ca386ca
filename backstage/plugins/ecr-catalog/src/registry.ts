import type { Entity } from '@backstage/catalog-model';

/** A line of the entity's lists. What an entity leaves out is undefined. */
export interface Repository {
  /** Unique in its list: two lines of a hand-written entity may share a name. */
  id: string;
  name: string;
  owner?: string | undefined;
  risk?: string | undefined;
  environment?: string | undefined;
  status?: string | undefined;
  uri?: string | undefined;
  requested?: string | undefined;
}

/** How many live repositories have each value of a field. */
export interface Tally {
  field: string;
  counts: { name: string; count: number }[];
}

/** Where the full list lies when the entity does not hold it. */
export interface Listed {
  url?: string | undefined;
  path?: string | undefined;
  digest?: string | undefined;
  count?: number | undefined;
}

/** What the entity says of its registry. */
export interface Registry {
  counts: {
    live?: string | undefined;
    pending?: string | undefined;
    ghost?: string | undefined;
    orphan?: string | undefined;
  };
  lastSync?: string | undefined;
  sourceSha?: string | undefined;
  digest?: string | undefined;
  repositories: Repository[];
  pending: Repository[];
  /** Empty unless the registry is past the limit of its list. */
  summary: Tally[];
  listed?: Listed | undefined;
}

/** Whether the card and the tab have something to show. */
export function isContainerRegistry(entity: Entity): boolean {
  return (
    entity.kind.toLocaleLowerCase('en-US') === 'resource' &&
    entity.spec?.type === 'container-registry'
  );
}

/** Read the registry out of an entity; what has another form than the pipeline's is left out. */
export function registryOf(entity: Entity): Registry {
  const { annotations = {} } = entity.metadata;
  const spec = entity.spec ?? {};
  const listed = isObject(spec.listed) ? spec.listed : undefined;
  return {
    counts: {
      live: annotations['platform/repo-count'],
      pending: annotations['platform/pending-count'],
      ghost: annotations['platform/ghost-count'],
      orphan: annotations['platform/orphan-count'],
    },
    lastSync: annotations['platform/last-sync'],
    sourceSha: annotations['platform/source-sha'],
    digest: annotations['platform/content-digest'],
    repositories: repositoriesOf(spec.repositories),
    pending: repositoriesOf(spec.pending),
    summary: isObject(spec.summary) ? talliesOf(spec.summary) : [],
    listed: listed && {
      url: textOf(listed.url),
      path: textOf(listed.path),
      digest: textOf(listed.digest),
      count: numberOf(listed.count),
    },
  };
}

function repositoriesOf(list: unknown): Repository[] {
  if (!Array.isArray(list)) {
    return [];
  }
  return list.filter(isObject).map((line, index) => ({
    id: String(index),
    name: textOf(line.name) ?? '',
    owner: textOf(line.owner),
    risk: textOf(line.risk),
    environment: textOf(line.environment),
    status: textOf(line.status),
    uri: textOf(line.uri),
    requested: textOf(line.requested),
  }));
}

function talliesOf(summary: Record<string, unknown>): Tally[] {
  return Object.entries(summary).flatMap(([field, list]) =>
    Array.isArray(list)
      ? [
          {
            field,
            counts: list.filter(isObject).map(each => ({
              name: textOf(each.name) ?? '',
              count: numberOf(each.count) ?? 0,
            })),
          },
        ]
      : [],
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' || typeof value === 'number'
    ? String(value)
    : undefined;
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}
