import type { Entity } from '@backstage/catalog-model';

import { isContainerRegistry, registryOf } from './registry';
import { entityPastTheLimit, pipelineEntity } from './testEntities';

test('reads every field of the entity that the pipeline publishes', () => {
  const entity = pipelineEntity();
  const { annotations } = entity.metadata;

  const registry = registryOf(entity);

  expect(registry.counts).toEqual({
    live: annotations!['platform/repo-count'],
    pending: annotations!['platform/pending-count'],
    ghost: annotations!['platform/ghost-count'],
    orphan: annotations!['platform/orphan-count'],
  });
  expect(registry.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
  expect(registry.sourceSha).toMatch(/^[0-9a-f]{40}$/);
  expect(registry.lastSync).toMatch(/Z$/);
  expect(registry.repositories.map(({ id, ...line }) => line)).toEqual(
    entity.spec!.repositories,
  );
  expect(registry.pending.map(({ id, ...line }) => line)).toEqual(
    entity.spec!.pending,
  );
  expect(registry.summary).toEqual([]);
  expect(registry.listed).toBeUndefined();
});

test('reads the summary of a registry past the limit of its list', () => {
  const registry = registryOf(
    entityPastTheLimit({ url: 'https://example.com/list', count: 12000 }),
  );

  expect(registry.repositories).toEqual([]);
  expect(registry.summary.map(({ field }) => field)).toEqual([
    'owner',
    'risk',
    'environment',
  ]);
  expect(registry.summary[0]!.counts[0]).toEqual({ name: 'team-a', count: 9000 });
  expect(registry.listed).toMatchObject({
    url: 'https://example.com/list',
    count: 12000,
  });
});

test.each([
  ['no spec', undefined],
  ['lists that are none', { repositories: 'x', pending: 7, summary: [], listed: 'x' }],
  [
    'lines that are none',
    { repositories: [null, 'x', []], summary: { owner: 'x', risk: [null] } },
  ],
])('leaves out what an entity of another form has: %s', (_, spec) => {
  const entity = { ...pipelineEntity(), spec } as unknown as Entity;

  const registry = registryOf(entity);

  expect(registry.repositories).toEqual([]);
  expect(registry.pending).toEqual([]);
  expect(registry.listed).toBeUndefined();
});

test('leaves out fields of another type', () => {
  const line = { name: { a: 1 }, owner: ['x'], risk: 3, uri: null };
  const spec = { repositories: [line] };

  const [repository] = registryOf({ ...pipelineEntity(), spec } as Entity).repositories;

  expect(repository).toMatchObject({ name: '', owner: undefined, risk: '3' });
  expect(repository!.uri).toBeUndefined();
});

test('only a Resource of the type container-registry is a registry', () => {
  const entity = pipelineEntity();

  expect(isContainerRegistry(entity)).toBe(true);
  expect(isContainerRegistry({ ...entity, kind: 'Component' })).toBe(false);
  expect(isContainerRegistry({ ...entity, spec: { type: 'database' } })).toBe(false);
});
