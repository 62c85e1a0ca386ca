import { type Entity, parseEntityRef } from '@backstage/catalog-model';

import type { Listed } from './registry';

const NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const NAMESPACE = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;
const COMMIT = /^[0-9a-f]{7,64}$/;

// A page of a file on a git host, and where the pages of commits begin there. GitLab comes first:
// its repositories lie in groups of any depth.
const HOSTS: [RegExp, string][] = [
  [/^(.+)\/-\/(?:blob|tree|raw|edit)\//, '/-/commit/'],
  [/^(\/[^/]+\/[^/]+)\/(?:blob|tree|raw|edit)\//, '/commit/'],
  [/^(\/[^/]+\/[^/]+)\/src\/branch\//, '/commit/'],
  [/^(\/[^/]+\/[^/]+)\/src\//, '/commits/'],
];

/**
 * The reference of the entity that an owner names, a Group unless it says otherwise.
 * Undefined when it cannot be one: then it is only text.
 */
export function ownerRef(owner: string, namespace = 'default') {
  let ref;
  try {
    ref = parseEntityRef(owner, {
      defaultKind: 'group',
      defaultNamespace: namespace,
    });
  } catch {
    return undefined;
  }
  const known = ['group', 'user'].includes(ref.kind.toLocaleLowerCase('en-US'));
  return known && NAME.test(ref.name) && NAMESPACE.test(ref.namespace)
    ? ref
    : undefined;
}

/** The address if a browser may be sent there, undefined for any that is not http or https. */
export function webUrl(
  text: string | undefined,
  base?: string,
): string | undefined {
  let url;
  try {
    url = new URL(text ?? '', base);
  } catch {
    return undefined;
  }
  return ['http:', 'https:'].includes(url.protocol) ? url.href : undefined;
}

/**
 * The page of a governance commit, in the repository that the entity itself was read from.
 * Undefined where that is no page of a git host.
 */
export function commitUrl(entity: Entity, sha: string): string | undefined {
  const { annotations = {} } = entity.metadata;
  const page = pageOf(
    annotations['backstage.io/source-location'] ??
      annotations['backstage.io/managed-by-location'],
  );
  if (!page || !COMMIT.test(sha)) {
    return undefined;
  }
  const [repository, commits] = page.commits;
  return `${new URL(page.url).origin}${repository}${commits}${sha}`;
}

/**
 * The page of the full list: its address, or its file beside the entity's on a git host.
 * Undefined where there is none.
 */
export function listUrl(entity: Entity, listed: Listed): string | undefined {
  if (listed.url !== undefined) {
    return webUrl(listed.url);
  }
  const { annotations = {} } = entity.metadata;
  const page = pageOf(annotations['backstage.io/managed-by-location']);
  if (!page || !listed.path) {
    return undefined;
  }
  const url = webUrl(listed.path, page.url);
  const folder = new URL('.', page.url).href;
  return url?.startsWith(folder) ? url : undefined;
}

/** The page on a git host that a location names, and where its repository's commits are. */
function pageOf(location: string | undefined) {
  const url = webUrl(location?.replace(/^url:/, ''));
  if (!url) {
    return undefined;
  }
  const { pathname } = new URL(url);
  for (const [pattern, commits] of HOSTS) {
    const repository = pattern.exec(pathname)?.[1];
    if (repository) {
      return { url, commits: [repository, commits] as const };
    }
  }
  return undefined;
}
