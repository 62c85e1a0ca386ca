// A Backstage backend with nothing but the catalog: no scaffolder, no search, and Backstage's own pages
// only where they are asked for.
const path = require('node:path');
const { createBackend } = require('@backstage/backend-defaults');

// A catalog rule names a file by its absolute path.
process.env.ECR_CATALOG_ENTITY_FILE = path.resolve(
  __dirname,
  process.env.ECR_CATALOG_ENTITY_FILE ||
    '../.demo/catalog/catalog/resources/ecr-registry.yaml',
);

const backend = createBackend();
backend.add(import('@backstage/plugin-catalog-backend'));
backend.add(import('@backstage/plugin-catalog-backend-module-aws'));
// The pages are found as the package `app`, which takes NODE_PATH=plugins.
if (process.env.ECR_CATALOG_UI) {
  backend.add(import('@backstage/plugin-app-backend'));
}
backend.start().catch(error => {
  console.error(error.message);
  process.exit(1);
});
