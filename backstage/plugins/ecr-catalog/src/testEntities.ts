import { readFileSync } from 'node:fs';
import path from 'node:path';

import type { Entity } from '@backstage/catalog-model';
import { parse } from 'yaml';

/** The entity that the pipeline's own tests hold it to. */
export function pipelineEntity(): Entity {
  const file = '../../../../tests/data/golden/ecr-registry.yaml';
  return parse(readFileSync(path.resolve(__dirname, file), 'utf8'));
}

/** An entity of the pipeline's with other lists. */
export function entityWith(
  repositories: Record<string, string>[],
  pending: Record<string, string>[] = [],
): Entity {
  const entity = pipelineEntity();
  return { ...entity, spec: { ...entity.spec, repositories, pending } };
}

/** A registry past the limit of its list. */
export function entityPastTheLimit(listed: Record<string, string | number>): Entity {
  const { repositories, pending, ...spec } = pipelineEntity().spec!;
  return {
    ...pipelineEntity(),
    spec: {
      ...spec,
      summary: {
        owner: [
          { name: 'team-a', count: 9000 },
          { name: 'others', count: 3000 },
        ],
        risk: [{ name: 'low', count: 12000 }],
        environment: [{ name: 'prod', count: 12000 }],
      },
      listed,
    },
  };
}
